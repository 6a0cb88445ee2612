"""A page on a small atlas, served as `atlas explore` serves it, and a real browser that looks at it."""

from __future__ import annotations

import os
import shutil
import threading

import pytest
import tiny
import uvicorn
from browser import looking

import atlas
from atlas.explorer.app import make_app
from atlas.explorer.serve import Server, address_of, listen
from atlas.explorer.visit import Visit

CHROMIUM = os.environ.get("ATLAS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def scored_atlas(tmp_path_factory, built_atlas):
    """A small atlas with two topics and neuron vectors."""
    path = tmp_path_factory.mktemp("scored") / "tiny.atlas"
    shutil.copy(built_atlas, path)
    opened = atlas.open(path)
    opened.score_many({"medicine": tiny.MEDICINE, "the sea": tiny.SEA}, null_topics=8)
    opened.score_many({"medicine": tiny.MEDICINE}, scorer="centroid")
    opened.score_many({"medicine": tiny.MEDICINE}, scorer="contrast")
    return path


@pytest.fixture(scope="session")
def shown(tmp_path_factory, scored_atlas, encoder):
    """A visit to a copy of it that tests may write to, with the encoder of all tests."""
    opened = atlas.open(shutil.copy(scored_atlas, tmp_path_factory.mktemp("shown") / "shown.atlas"), patience=5)
    opened._encoders[opened.info()["encoder"]] = encoder
    return Visit(opened)


@pytest.fixture(scope="session")
def served(shown):
    """The address of a page on that, served in this process, which has the libraries loaded: NiceGUI has one page in each."""
    listening = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(make_app(shown), log_level="error", lifespan="on"))
    ready = threading.Event()
    server.ready = ready.set
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield address_of(listening, "127.0.0.1")
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def chromium():
    """A real browser without a window."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here to look at pages with: apt-get install chromium, or set ATLAS_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, served):
    """Such a page on the small atlas."""
    with looking(chromium, served) as found:
        yield found
