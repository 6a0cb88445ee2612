"""A path is what it leads to, whatever characters it has and wherever the program goes meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import tiny
from atlas.cli.main import cli
from click.testing import CliRunner

import atlas
from atlas.building.build import build_atlas
from atlas.building.staging import staging_folder
from atlas.errors import AtlasError, StoreError
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts, read_texts

ODD = ("it's 100%41 #1 a;b & k=1 {x} über", "[ab]*", "~", 'md:x "y"')


@pytest.fixture(params=ODD)
def folder(request, tmp_path, monkeypatch):
    """A folder with an odd name, which is the current one's name for it."""
    (tmp_path / request.param).mkdir()
    monkeypatch.chdir(tmp_path)
    return request.param


def test_an_atlas_is_read_written_exported_and_imported_under_any_name(folder, built_atlas, encoder, tmp_path):
    name = f"{folder}/{folder}.atlas"
    shutil.copy(built_atlas, tmp_path / name)
    opened = atlas.open(name)
    with opened.store.write() as session:
        session.append("topics", pl.DataFrame({"topic_id": [0], "name": ["sea"]}))
    assert opened.info()["topics"]["name"].to_list() == ["sea"]
    export_atlas(Store(name), f"{folder}/out", rows_per_file=100)
    import_atlas(f"{folder}/out", f"{folder}/new.atlas")
    assert atlas.open(f"{folder}/new.atlas").info()["topics"]["name"].to_list() == ["sea"]
    assert atlas.open(f"{folder}/new.atlas").info()["rows"] == opened.info()["rows"]


@pytest.mark.parametrize("name", [":memory:", ":memory:x", "md:x", "sqlite:x", "x&a=1#b", "-x", "a'b"])
def test_a_name_alone_is_a_file_too(name, built_atlas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="no atlas at"):
        atlas.open(name)
    shutil.copy(built_atlas, tmp_path / name)
    assert atlas.open(name).info()["prompts"] == 60
    result = CliRunner().invoke(cli, ["query", "--", name, "select count(*) as n from prompts"])
    assert (result.exit_code, result.stdout.split()) == (0, ["n", "60"])


def test_a_build_takes_an_atlas_and_saes_under_any_name(tmp_path, gpt2_folder, sae_folder, loaded_once, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sae_folder, f"{ODD[0]}/saes")
    saes = [(f"{ODD[0]}/saes", "residual")]
    for count in (4, 6):
        report = build_atlas(
            f"{ODD[0]}/x.atlas", collect_texts(tiny.PROMPTS[:count]), model=str(gpt2_folder), saes=saes
        )
        assert report.prompts == count


def test_texts_are_read_under_any_name(folder):
    frame = pl.DataFrame({"text": ["a ship", "a boat"]})
    Path(f"{folder}/{folder}.csv").write_text(frame.write_csv())
    with Path(f"{folder}/{folder}.parquet").open("wb") as handle:  # Polars takes some names for other places
        frame.write_parquet(handle)
    for ending in ("csv", "parquet"):
        assert read_texts(f"{folder}/{folder}.{ending}").texts == ("a ship", "a boat")


def test_an_open_atlas_stays_the_same_file_when_the_program_goes_elsewhere(built_atlas, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(built_atlas, tmp_path / "x.atlas")
    monkeypatch.chdir(tmp_path)
    opened = atlas.open("x.atlas")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert opened.info()["prompts"] == 60
    with opened.store.write() as session:
        session.append("topics", pl.DataFrame({"topic_id": [0], "name": ["sea"]}))
    assert atlas.open("../x.atlas").info()["topics"].height == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_atlas_is_read_and_written_through_a_link(built_atlas, tmp_path):
    real = shutil.copy(built_atlas, tmp_path / "real.atlas")
    (tmp_path / "link.atlas").symlink_to(real)
    opened = atlas.open(tmp_path / "link.atlas")
    with opened.store.write() as session:
        session.append("topics", pl.DataFrame({"topic_id": [0], "name": ["sea"]}))
    assert atlas.open(real).info()["topics"].height == 1
    assert staging_folder(opened.store) == staging_folder(Store(real))


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 300, "File name too long"), ("x\udcff", "is not UTF-8"), ("x.atlas/", "no atlas at"), ("", "is a folder")],
)
def test_a_name_that_cannot_be_a_file_is_said_in_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AtlasError, match=message) as caught:
        atlas.open(name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_circle_is_said_in_one_line(tmp_path):
    (tmp_path / "x.atlas").symlink_to("x.atlas")
    with pytest.raises(StoreError, match="x.atlas is a link that leads to itself|no atlas at"):
        atlas.open(tmp_path / "x.atlas")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas.building.build, "load_language_model", None)
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="cannot be written"):
        build_atlas(tmp_path / "x.atlas", collect_texts(["a"]), model="m", saes=[("s", "i")])
    tmp_path.chmod(0o755)


def test_a_folder_where_a_file_is_expected_is_said(tmp_path, built_atlas):
    for make_path in (lambda: read_texts(tmp_path), lambda: atlas.open(tmp_path)):
        with pytest.raises(AtlasError) as caught:
            make_path()
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    export_atlas(Store(built_atlas), tmp_path / "out")
    with pytest.raises(StoreError, match="is there already"):
        import_atlas(tmp_path / "out", tmp_path)
    with pytest.raises(AtlasError, match="is a folder|is an export"):
        build_atlas(tmp_path, collect_texts(["a"]), model="m", saes=[("s", "i")])


@pytest.mark.parametrize("name", ["x?y.atlas", "is it?/x.atlas"])
def test_a_question_mark_is_refused_before_anything_is_loaded(tmp_path, built_atlas, monkeypatch, name):
    monkeypatch.setattr(atlas.building.build, "load_language_model", None)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    with pytest.raises(StoreError, match="has a question mark in its name or folder"):
        build_atlas(path, collect_texts(["a"]), model="m", saes=[("s", "i")])
    shutil.copy(built_atlas, path)
    with pytest.raises(StoreError, match="has a question mark in its name or folder"):
        atlas.open(path)
