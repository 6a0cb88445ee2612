"""An export is the whole atlas, row for row, or it is not there; and so is what is imported from it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import handmade
import numpy as np
import polars as pl
import pytest
import tiny
from atlas.cli.main import cli
from click.testing import CliRunner

from atlas.errors import AtlasError, StoreError
from atlas.meaning.neuron_vectors import ensure_neuron_vectors
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import MANIFEST, SCHEMA_VERSION, Store
from atlas.store.manifest import read_manifest, table_names
from atlas.store.session import now

RNG = np.random.default_rng(0)
RAW = handmade.random_raw(RNG, 40, 12)
VECTORS = handmade.unit_vectors(RNG, 40)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A built atlas with scores, and a row in every table that a build and a scoring leave empty."""
    store = handmade.make_store(tmp_path_factory.mktemp("filled") / "it's.atlas", [RAW, RAW[:, :, ::-1]], VECTORS)
    topics, embed = handmade.make_topics(np.random.default_rng(1), a=3, b=2)
    score_topics(store, topics, embed=embed, config=ScoringConfig(min_support=5, null_topics=4))
    ensure_neuron_vectors(store)
    with store.write() as session:
        for table in tables():
            if not session.sql(f'from "{table}"').height:
                session.append(table, one_row(session, table))
    return store


def tables():
    return list(table_names())


def one_row(session, table):
    """A row with a value of every column's type; what it refers to is there."""
    values = {"varchar": "a 'text'\n\u00bb", "timestamp": now(), "float": 0.1, "double": 0.1, "boolean": True,
              "uinteger": 2**32 - 1, "ubigint": 2**64 - 1, "uinteger[]": [0, 7], "varchar[]": ["x", ""],
              "float[]": [0.5, None]}  # fmt: skip
    columns = session.sql(
        "select column_name, lower(data_type) from duckdb_columns() where table_name = $table", table=table
    )
    there = {
        "sae_key": 0,
        "neuron": 0,
        "prompt_id": 0,
        "index": 0,
        "kind": "sas",
        "side": "promoted",
        "basis": "decoder",
        "parameters": '{"a": "\u00bb"}',
    }
    return pl.DataFrame({name: [there.get(name, values[kind])] for name, kind in columns.iter_rows()}, strict=False)


def rows_in_order(store):
    with store.read() as session:
        return {table: session.sql(f'from "{table}"') for table in tables()}


def assert_same(one, other):
    """The same tables with the same rows in the same order and of the same types."""
    first, second = rows_in_order(one), rows_in_order(other)
    assert list(first) == list(second)
    for table, frame in first.items():
        assert frame.height, f"{table} is empty: the test compares nothing"
        assert frame.schema == second[table].schema
        assert frame.equals(second[table]), table


@pytest.mark.parametrize("rows_per_file", [1, 100, 10**6], ids=["a file per neuron", "a few files", "one file"])
def test_every_table_comes_back_row_for_row(filled, tmp_path, rows_per_file):
    export_atlas(filled, tmp_path / "out's", rows_per_file=rows_per_file)
    import_atlas(tmp_path / "out's", tmp_path / "copy.atlas")
    assert_same(filled, Store(tmp_path / "copy.atlas"))


def test_a_built_atlas_comes_back_and_answers_alike(atlas_store, encoder, tmp_path):
    from atlas.api import open as open_atlas

    original = open_atlas(atlas_store.path)
    original.score("sea", list(tiny.SEA), min_support=5)
    export_atlas(atlas_store, tmp_path / "out")
    import_atlas(tmp_path / "out", tmp_path / "copy.atlas")
    copy = open_atlas(tmp_path / "copy.atlas")
    assert copy.top("sea").equals(original.top("sea"))
    assert copy.info()["saes"].equals(original.info()["saes"])


def test_activations_lie_in_a_folder_per_sae_and_a_neurons_rows_in_one_file(filled, tmp_path):
    made = export_atlas(filled, tmp_path / "out", rows_per_file=60)
    seen = []
    for key in (0, 1):
        folder = tmp_path / "out" / "activations" / f"sae_key={key}"
        for file in sorted(folder.iterdir()):
            neurons = pl.read_parquet(file, hive_partitioning=False)["neuron"]
            first, last = map(int, file.stem.split("_")[1:])
            assert (neurons.min(), neurons.max()) == (first, last)
            assert neurons.is_sorted()
            seen += [(key, neuron) for neuron in neurons.unique()]
    assert len(made.tables["activations"]) > 4
    with filled.read() as session:
        assert sorted(seen) == session.sql("select distinct sae_key, neuron from activations order by all").rows()


def test_the_manifest_says_the_version_and_the_rows_of_every_file(filled, tmp_path):
    made = export_atlas(filled, tmp_path / "out", rows_per_file=60)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert content["schema_version"] == SCHEMA_VERSION
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")}
    assert {name for listed in content["tables"].values() for name in listed} == files
    for table, frame in rows_in_order(filled).items():
        assert made.rows(table) == frame.height


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_target_that_is_there_is_refused_and_left_as_it_was(filled, tmp_path, command):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    export_atlas(filled, tmp_path / "out")
    with pytest.raises(StoreError, match="is there already"):
        _ = export_atlas(filled, target) if command == "export" else import_atlas(tmp_path / "out", target)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_a_file_that_is_there_is_not_overwritten_by_an_import(filled, tmp_path):
    export_atlas(filled, tmp_path / "out")
    (tmp_path / "x.atlas").write_text("mine")
    with pytest.raises(StoreError, match=r"x\.atlas is there already: remove it, or name another file"):
        import_atlas(tmp_path / "out", tmp_path / "x.atlas")
    assert (tmp_path / "x.atlas").read_text() == "mine"


def test_an_unfinished_atlas_is_not_exported(filled, tmp_path):
    store = Store(shutil.copy(filled.path, tmp_path / "x.atlas"))
    with store.write() as session:
        session.run("mark_building", reference_hash="second")
    with pytest.raises(StoreError, match="is unfinished"):
        export_atlas(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing(filled, tmp_path):
    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_atlas(filled, tmp_path / "out", rows_per_file=1, progress=stop)
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store
def stop(stage, done, total):
    if done * 2 >= total:
        os.kill(os.getpid(), signal.SIGKILL)
kind, source, target = sys.argv[1:]
if kind == "export":
    export_atlas(Store(source), target, rows_per_file=1, progress=stop)
else:
    import_atlas(source, target, progress=stop)
"""


def run_killed(kind, source, target):
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(source), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_an_export_named_where_an_atlas_goes_is_said(filled, tmp_path):
    export_atlas(filled, tmp_path / "out")
    with pytest.raises(StoreError, match="out is an export: make an atlas of it with `atlas import`, or ask it on"):
        Store(tmp_path / "out").check()


def test_a_killed_export_is_never_taken_for_a_whole_one(filled, tmp_path):
    run_killed("export", filled.path, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.parquet"))
    with pytest.raises(StoreError, match=r"holds no manifest\.json, so it is no export, or one that did not end"):
        import_atlas(tmp_path / "out", tmp_path / "x.atlas")
    with pytest.raises(StoreError, match="is there already and holds no whole export: remove it"):
        export_atlas(filled, tmp_path / "out")
    assert not (tmp_path / "x.atlas").exists()


def test_a_killed_import_leaves_no_atlas_and_the_next_one_succeeds(filled, tmp_path):
    export_atlas(filled, tmp_path / "out")
    run_killed("import", tmp_path / "out", tmp_path / "x.atlas")
    assert not (tmp_path / "x.atlas").exists()
    import_atlas(tmp_path / "out", tmp_path / "x.atlas")
    assert_same(filled, Store(tmp_path / "x.atlas"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.atlas"]


def cut(folder):
    path = folder / "prompts.parquet"
    path.write_bytes(path.read_bytes()[:-10])


def swap(folder):
    shutil.copy(folder / "topics.parquet", folder / "prompts.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "scores.parquet").unlink(), r"scores\.parquet is missing, and the manifest lists it"),
        (cut, r"prompts\.parquet was changed after it was written \(its SHA-256 differs"),
        (swap, r"prompts\.parquet was changed after it was written \(its SHA-256 differs"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not the manifest of an export"),
        (lambda folder: (folder / MANIFEST).write_text("[1]"), "is not the manifest of an export"),
        (lambda folder: (folder / MANIFEST).write_text('{"kind": "x", "schema_version": 1}'), "is not the manifest of"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
    ids=["missing", "cut", "another file", "no JSON", "a list", "another kind", "no folder"],
)
def test_a_damaged_export_is_said_in_one_line_and_gives_no_atlas(filled, tmp_path, damage, message):
    export_atlas(filled, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(StoreError, match=message) as caught:
        import_atlas(tmp_path / "out", tmp_path / "x.atlas")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == []


def test_another_schema_version_is_one_clear_line(filled, tmp_path):
    export_atlas(filled, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(
        StoreError, match=f"has schema version 99, this program reads version {SCHEMA_VERSION}: export it"
    ):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize("target", ["missing/out", "file/out"])
def test_a_place_where_nothing_can_be_made_is_said(filled, tmp_path, target):
    (tmp_path / "file").write_text("")
    with pytest.raises(AtlasError, match=r"no such folder|cannot be made"):
        export_atlas(filled, tmp_path / target)


def test_the_commands_say_what_they_did(filled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(filled.path, "x.atlas")
    with filled.read() as session:
        rows = session.sql("from activations").height
    result = CliRunner().invoke(cli, ["export", "x.atlas", "out"])
    assert result.exit_code == 0
    assert result.stdout == f"out: {len(tables())} tables, {rows} activation rows, {len(tables()) + 1} files\n"
    result = CliRunner().invoke(cli, ["import", "out", "y.atlas"])
    assert result.exit_code == 0
    assert result.stdout == f"y.atlas: {len(tables())} tables, {rows} activation rows. Next: atlas info y.atlas\n"
    assert_same(filled, Store(tmp_path / "y.atlas"))


def test_an_import_reaches_nothing_but_the_folder_of_the_export(filled, tmp_path, monkeypatch):
    import duckdb

    export_atlas(filled, tmp_path / "out")
    (tmp_path / "secret.txt").write_text("secret")
    tried = []

    def read_file(session, *_):
        for sql in (
            f"from read_text('{tmp_path / 'secret.txt'}')",
            f"from read_text('{tmp_path / 'out' / '..' / 'secret.txt'}')",
            "from read_csv('https://example.com/x.csv')",
            "install httpfs",
        ):
            with pytest.raises(duckdb.Error, match="Permission|disabled|not allowed|configuration"):
                session.sql(sql)
            tried.append(sql)
        raise KeyboardInterrupt

    monkeypatch.setattr("atlas.store.exchange.read_file", read_file)
    with pytest.raises(KeyboardInterrupt):
        import_atlas(tmp_path / "out", tmp_path / "x.atlas")
    assert tried
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret.txt"]
