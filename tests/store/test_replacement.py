"""A file takes the place of another at once or not at all; a link stays one, and permissions stay as they were."""

from __future__ import annotations

import os
import stat

import pytest
import tiny

import atlas
from atlas.building.build import build_atlas
from atlas.errors import StoreError
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store
from atlas.store.replacement import replace_file, replacement
from atlas.texts.prompts import collect_texts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def write(path, text="new"):
    with replacement(path) as new:
        new.write_text(text)


def test_a_link_stays_one_and_the_file_it_leads_to_is_replaced_with_its_permissions(tmp_path):
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real"
    real.write_text("old")
    real.chmod(0o664)
    (tmp_path / "middle").symlink_to("disk/real")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "middle").is_symlink()
    assert (real.read_text(), mode(real)) == ("new", 0o664)
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o640)
    os.chown(path, 12345, 23456)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 23456, 0o640)


def test_a_link_to_what_is_not_there_yet_leads_to_the_new_file(tmp_path):
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_link_that_leads_to_itself_is_said(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(StoreError, match="is a link that leads to itself"):
        write(tmp_path / "link")


def test_a_folder_is_said_and_left(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError, match="x is a folder: name a file in it"):
        write(tmp_path / "x")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error), replacement(path) as new:
        new.write_text("half")
        (tmp_path / "x.new.wal").write_text("log")
        raise error
    assert (path.read_text(), names(tmp_path)) == ("old", ["x"])


def test_what_a_killed_process_left_is_not_taken_for_the_new_file_or_its_log(tmp_path):
    for name in ("x.new", "x.new.wal"):
        (tmp_path / name).write_text("half")
    with replacement(tmp_path / "x") as new:
        assert names(tmp_path) == []
        new.write_text("new")
    assert names(tmp_path) == ["x"]


def test_the_log_of_the_old_file_is_gone_before_the_new_file_is_there(tmp_path, monkeypatch):
    """Killed between the two, the log would be read into a file that has its rows already."""
    new, old, log = (tmp_path / name for name in ("new", "old", "old.wal"))
    for path in (new, old, log):
        path.write_text(path.name)
    monkeypatch.setattr(type(new), "replace", lambda *args: pytest.fail("stop") if log.exists() else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replace_file(new, old)


@pytest.fixture
def arguments(gpt2_folder, sae_folder, loaded_once):
    return {"model": str(gpt2_folder), "saes": [(str(sae_folder), "residual")]}


def test_a_build_through_a_link_completes_the_file_it_leads_to(tmp_path, arguments):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.atlas", tmp_path / "link.atlas"
    link.symlink_to(real)
    build_atlas(link, collect_texts(tiny.PROMPTS[:6]), **arguments)
    assert link.is_symlink()
    real.chmod(0o664)
    build_atlas(link, collect_texts(tiny.PROMPTS[:9]), **arguments)
    assert link.is_symlink() and mode(real) == 0o664
    for path in (link, real):
        assert {name: atlas.open(path).info()[name] for name in ("state", "prompts")} == {
            "state": "complete", "prompts": 9,
        }  # fmt: skip
    assert (names(tmp_path), names(real.parent)) == (["disk", "link.atlas"], ["real.atlas"])


def test_an_import_through_a_link_makes_the_file_it_leads_to(built_atlas, tmp_path):
    export_atlas(Store(built_atlas), tmp_path / "out")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.atlas").symlink_to("disk/real.atlas")
    import_atlas(tmp_path / "out", tmp_path / "link.atlas")
    assert atlas.open(tmp_path / "disk" / "real.atlas").info()["state"] == "complete"
    assert (tmp_path / "link.atlas").is_symlink()


def test_a_file_with_two_names_is_not_begun_to_be_built_and_stays_as_it_was(atlas_file, arguments):
    other = atlas_file.with_name("other.atlas")
    other.hardlink_to(atlas_file)
    before = other.read_bytes()
    with pytest.raises(StoreError, match=r"has 2 names \(hard links\), of which the others would keep an unfinished"):
        build_atlas(atlas_file, collect_texts(["a new prompt"]), **arguments)
    assert other.read_bytes() == before
