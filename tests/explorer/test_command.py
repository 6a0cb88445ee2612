"""`atlas explore` and `a.explore()`: where they listen, what they say, and what an atlas of a stranger can do."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from browser import looking, serving
from command import run

import atlas
from atlas.api import Atlas
from atlas.errors import AtlasError, StoreError
from atlas.explorer.serve import address_of, listen
from atlas.explorer.visit import Visit
from atlas.meaning.notes import add_notes
from atlas.store.file import Store


def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def opened_from_python(scored_atlas):
    """A page that is read-only, as Python opens it; it is closed at the end."""
    with atlas.open(scored_atlas).explore(browser=False, read_only=True) as served:
        yield served
    assert not served.is_open
    assert repr(served) == "<page that is closed>"


def test_the_command_serves_the_page_on_loopback_alone_and_holds_no_lock(scored_atlas, tmp_path):
    import shutil

    path = shutil.copy(scored_atlas, tmp_path / "own.atlas")
    with serving(path) as url:
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        assert get(url)[0] == 200
        assert get(url, Host="evil.example")[0] == 421
        assert get(url, Origin="http://evil.example")[0] == 403
        assert get(f"{url}/_nicegui_ws/socket.io/?EIO=4&transport=polling", Origin="http://evil.example")[0] == 403
        own = socket.gethostbyname(socket.gethostname())
        if own != "127.0.0.1":
            with pytest.raises(OSError), socket.create_connection((own, port), timeout=2):
                pass
        atlas.open(path).score("bread", ["Bread in the oven", "A loaf of bread"], null_topics=2)  # a writer beside it
        assert "bread" in get(f"{url}/topics")[1]


def test_a_page_that_is_read_only_stores_nothing_whatever_is_asked_of_it(scored_atlas, opened_from_python, chromium):
    before = scored_atlas.read_bytes()
    with looking(chromium, opened_from_python.url) as page:
        page.goto("/topics?topic=medicine")
        page.get_by_text("read-only").wait_for()
        page.get_by_test_id("top").locator("tbody tr").first.wait_for()
        assert page.get_by_test_id("keep").is_disabled()
    visit = Visit(Atlas(Store(scored_atlas, read_only=True)))
    for attempt in (
        lambda: visit.atlas.score("bread", ["Bread in the oven"], null_topics=2),
        lambda: add_notes(visit.atlas.store, {0: [1]}),
        lambda: visit.atlas.map("vectors", again=True),
    ):
        with pytest.raises(StoreError, match="was opened read-only"):
            attempt()
    assert scored_atlas.read_bytes() == before


def test_a_port_that_is_taken_is_said_in_one_line(scored_atlas):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("explore", scored_atlas, "--no-browser", "--port", port, "--read-only")
        assert code == 1
        assert f"127.0.0.1:{port} cannot be listened on" in err
        with pytest.raises(AtlasError, match="cannot be listened on"):
            atlas.open(scored_atlas).explore(port=port, browser=False, read_only=True)


def test_an_unfinished_atlas_is_not_shown(scored_atlas, tmp_path):
    import shutil

    path = shutil.copy(scored_atlas, tmp_path / "half.atlas")
    with Store(path).write() as session:
        session._execute("update atlas set state = 'building'")
    code, _, err = run("explore", path, "--no-browser", "--port", 0)
    assert (code, "is unfinished" in err) == (1, True)


def test_a_missing_extra_is_said_in_one_line(scored_atlas, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nicegui" else found(name))
    code, _, err = run("explore", scored_atlas)
    assert (code, err) == (1, "Error: the page needs nicegui: pip install 'neuron-atlas[explore]'\n")


def test_other_commands_do_not_import_the_page():
    code = (
        "import sys; from atlas.cli.main import cli; cli.main(['--help'], standalone_mode=False); "
        "assert not {'nicegui', 'fastapi', 'plotly'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "explore" in done.stdout


def test_the_address_is_one_that_a_browser_here_can_open():
    for host, shown in (("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        with listen(host, 0) as found:
            assert address_of(found, host) == f"http://{shown}:{found.getsockname()[1]}"


def test_python_opens_the_page_in_a_process_of_its_own(opened_from_python):
    served = opened_from_python
    assert served.is_open
    assert get(served.url)[0] == 200
    assert served.url in served._repr_html_()
    with pytest.raises(AtlasError, match="no atlas at"):
        Atlas(Store("gone.atlas")).explore(browser=False)
