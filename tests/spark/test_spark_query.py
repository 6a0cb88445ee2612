"""On Spark the same queries give the same scores, errors, z, best neurons, prompts behind a score and coverage."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest
import tiny
from contents import change
from polars.testing import assert_frame_equal
from spark_here import QUICK, needs_spark, needs_sqlglot

import atlas.spark.session
from atlas.api import Atlas
from atlas.errors import AtlasError, StoreError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.spark.query import open_spark
from atlas.spark.session import JAVA_VERSION, java_version, require_spark
from atlas.store.contents import read_sql
from atlas.store.exchange import export_atlas, import_atlas, open_export
from atlas.store.file import MANIFEST, Store
from atlas.store.session import scan_here

PROMPTS, NEURONS = 60, 20
RNG = np.random.default_rng(0)
RAW = handmade.random_raw(RNG, PROMPTS, NEURONS)
VECTORS = handmade.unit_vectors(RNG, PROMPTS)
TOPICS, EMBED = handmade.make_topics(np.random.default_rng(1), sea=3, land=5)
SETTINGS = [("mean", "euclidean", 2.0), ("max", "cosine", 1.0), ("count", "euclidean", 0.5)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two SAEs, two scored topics, examples."""
    store = handmade.make_store(tmp_path_factory.mktemp("spark") / "x.atlas", [RAW, RAW[:, :, ::-1]], VECTORS)
    with store.write() as session:
        change(session, f"update saes set d_sae = {NEURONS}")
        session.append("examples", pl.DataFrame({
            "sae_key": [0] * 9, "neuron": [2] * 9, "rank": range(1, 10), "prompt_id": range(9), "position": [1] * 9,
            "token": [" b", "B", "a", "c", "c", "e", "d", "g", "f"], "activation": [1.0] * 9, "context": [""] * 9,
        }))  # fmt: skip
    config = ScoringConfig(min_support=15, null_topics=4)
    score_topics(store, TOPICS, embed=EMBED, config=config)
    return store


@pytest.fixture(scope="module")
def export(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "it's"
    export_atlas(store, folder, rows_per_file=100)
    return folder


@pytest.fixture(scope="module")
def spark(export):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setenv(name, value)
        with open_spark(export, master="local[2]") as opened:
            yield opened


class Listener:
    """Stands where the language model does (score.Probe): random activations on a topic's texts, some equal to a prompt's."""

    def topic_activations(self, texts, sae_keys):
        rng, rows = np.random.default_rng(2), []
        for key in sae_keys:
            for text in range(len(texts)):
                fired = np.flatnonzero(rng.random(NEURONS) < 0.5)
                peaks = np.where(rng.random(len(fired)) < 0.5, RAW[1, text, fired], rng.random(len(fired)))
                rows += [(key, text, n, 2 * p, p, 2) for n, p in zip(fired.tolist(), peaks.tolist(), strict=True)]
        names = ("sae_key", "text_id", "neuron", "act_sum", "act_max", "act_count")
        kinds = (*[pl.UInt32] * 3, *[pl.Float32] * 2, pl.UInt32)
        return [7] * len(texts), pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")


def scored(export, config, scan, sae_keys=None, bootstraps=0, table="scores order by scoring_id, neuron"):
    """The topics scored over an export's files: the rows of `scores`, or of another table."""
    with open_export(export) as scratch:
        score_topics(
            scratch, TOPICS, embed=EMBED, config=config, scan=scan, sae_keys=sae_keys, bootstraps=bootstraps,
            probe=Listener(),
        )  # fmt: skip
        with scratch.read() as session:
            return session.sql(f"from {table}")


def alike(one, other):
    """The same rows in the same order, numbers within 1e-6; Spark's integers are wider."""
    kinds = {name: pl.Int64 for name, kind in other.schema.items() if kind.is_integer()}
    assert_frame_equal(one.cast(kinds), other.cast(kinds), rel_tol=1e-6, abs_tol=1e-6)


@needs_spark
@pytest.mark.parametrize(("summary", "distance", "power"), SETTINGS)
def test_scores_errors_and_z_are_those_of_duckdb(export, spark, summary, distance, power):
    config = ScoringConfig(summary=summary, distance=distance, power=power, min_support=20, null_topics=4)
    here, there = (scored(export, config, scan, sae_keys=[1]) for scan in (scan_here, spark.scan))
    assert 2 * NEURONS == here.height > here["z"].count() > NEURONS
    assert here["se"].count() == here["z"].count() == here["score"].count()
    alike(there, here)


@needs_spark
@pytest.mark.parametrize("scorer", ["contrast", "strawman"])
@pytest.mark.parametrize("summary", ["mean", "max"])
def test_scores_by_what_the_model_does_on_the_texts_are_those_of_duckdb(export, spark, scorer, summary):
    config = ScoringConfig(scorer=scorer, summary=summary, min_support=20)
    here, there = (scored(export, config, scan) for scan in (scan_here, spark.scan))
    assert here.height == 4 * NEURONS
    assert here["score"].n_unique() > NEURONS
    alike(there, here)


@needs_spark
@pytest.mark.parametrize(("summary", "distance", "power"), SETTINGS[:2])
def test_the_stability_of_a_ranking_is_that_of_duckdb(export, spark, summary, distance, power):
    config = ScoringConfig(summary=summary, distance=distance, power=power, min_support=20, null_topics=0)
    table = "(select topic_id, bootstraps, rank_stability, top_overlap from scorings) order by topic_id"
    here, there = (scored(export, config, scan, [1], 6, table) for scan in (scan_here, spark.scan))
    assert here["bootstraps"].to_list() == [6, 6]
    assert 0.1 < here["rank_stability"].min() < here["rank_stability"].max() < 1
    alike(there, here)


@needs_spark
def test_scores_are_those_of_the_atlas_the_export_was_made_from(export, spark, store):
    with store.read() as session:
        expected = session.sql("from scores order by scoring_id, neuron")
    alike(scored(export, ScoringConfig(min_support=15, null_topics=4), spark.scan), expected)


@needs_spark
def test_an_atlas_takes_the_scores_and_answers_with_them(export, spark, store, tmp_path):
    import_atlas(export, tmp_path / "y.atlas")
    into = Store(tmp_path / "y.atlas")
    spark.require_same(into)
    config = ScoringConfig(min_support=10, null_topics=4)
    score_topics(into, TOPICS, embed=EMBED, config=config, scan=spark.scan)
    copy = Store(shutil.copy(store.path, tmp_path / "z.atlas"))
    score_topics(copy, TOPICS, embed=EMBED, config=config)
    assert_frame_equal(Atlas(into).top("sea"), Atlas(copy).top("sea"), rel_tol=1e-6)


@needs_spark
def test_an_atlas_of_other_prompts_takes_no_scores(spark, tmp_path):
    other = handmade.make_store(tmp_path / "x.atlas", [RAW[:, :30]], VECTORS[:30])
    with pytest.raises(StoreError, match=r"x\.atlas has other prompts or SAEs than .*: export it again"):
        spark.require_same(other)


@needs_spark
def test_neurons_that_cannot_be_told_apart_are_the_same_error(export, spark):
    with pytest.raises(
        AtlasError, match="topic 'sea': 0 neurons fired on 61 or more prompts, so scores cannot be told"
    ):
        scored(export, ScoringConfig(min_support=PROMPTS + 1), spark.scan)


@needs_spark
@pytest.mark.parametrize("by", ["score", "z"])
def test_the_best_neurons_are_those_of_duckdb(spark, store, by):
    here, there = (Atlas(opened).top("sea", 7, by=by) for opened in (store, spark))
    assert here.height == 14
    alike(there, here)


@needs_spark
def test_what_a_neuron_fires_on_comes_in_the_order_of_its_examples(spark, store):
    top = Atlas(spark).top("land", NEURONS, sae_id=0)
    [words] = top.filter(pl.col("neuron") == 2)["fires_on"].to_list()
    assert words == ["b", "a", "c", "e", "d"]


@needs_spark
@pytest.mark.parametrize("topic", TOPICS)
def test_the_prompts_behind_a_score_are_those_of_duckdb(spark, store, topic):
    here, there = (Atlas(opened).why(topic, 3, sae_id="sae-1") for opened in (store, spark))
    assert here["contribution"].sum() > 0.1
    alike(there, here)


@needs_spark
@pytest.mark.parametrize("call", ["compare_topics('sea', 'land')", "similar_neurons(3, sae := 'sae-1')", "coverage()"])
def test_the_other_macros_give_what_they_give_on_duckdb(spark, store, call):
    with store.read() as here, spark.read() as there:
        expected, found = (session.sql(f"from {call}") for session in (here, there))
    assert expected.height
    alike(found, expected)


@needs_spark
def test_a_table_that_an_older_export_lacks_is_empty(spark, monkeypatch):
    manifest = replace(spark.manifest, tables={**spark.manifest.tables, "labels": {}})
    monkeypatch.setattr(spark._session, "manifest", manifest)
    monkeypatch.setattr(spark._session, "_known", set())
    with spark.read() as session:
        assert session.sql("select count(*) as labels from labels").item() == 0
        found = session.sql("select sae_key, neuron, label, quality from labels")
        assert found.columns == ["sae_key", "neuron", "label", "quality"]
        assert (
            session.ask("top_neurons", topic="land", n=1, sae=None, scorer="distance", by="score")["label"].null_count()
            > 0
        )


@needs_spark
def test_coverage_and_counts_are_those_of_duckdb(spark, store):
    here, there = (Atlas(opened).info() for opened in (store, spark))
    assert here["saes"]["coverage"].to_list() == [0.95, 0.95]
    alike(there.pop("saes"), here.pop("saes"))
    alike(there.pop("topics"), here.pop("topics"))
    assert there.pop("outdated_labels").rows() == here.pop("outdated_labels").rows() == []
    assert there == here


@needs_spark
def test_an_export_is_only_read(spark):
    with pytest.raises(StoreError, match="is an export, which is only read: make an atlas of it with `atlas import`"):
        score_topics(spark, TOPICS, embed=EMBED)
    for refused in (spark.create, spark.checkpoint, lambda: spark.query("from prompts")):
        with pytest.raises(StoreError, match="is an export, which is only read"):
            refused()


@needs_spark
def test_a_cluster_of_processes_scores_into_an_atlas_from_the_command_line(built_atlas, tmp_path):
    """Real texts and encoder; executors are processes of their own."""
    export_atlas(Store(built_atlas), tmp_path / "out")
    texts = tmp_path / "sea.txt"
    texts.write_text("\n".join(tiny.SEA))
    for name in ("here", "there"):
        shutil.copy(built_atlas, tmp_path / f"{name}.atlas")
    options = ["sea", str(texts), "--min-support", "5", "--null-topics", "8", "--format", "json", "-n", "3"]
    here = run_cli("score", str(tmp_path / "here.atlas"), *options)
    into = ["--engine", "spark", "--master", "local-cluster[2,1,1024]", "--into", str(tmp_path / "there.atlas")]
    there = run_cli("score", str(tmp_path / "out"), *options, *into)
    alike(pl.DataFrame(there), pl.DataFrame(here))
    stored = [Atlas(Store(tmp_path / f"{name}.atlas")).top("sea", 40) for name in ("here", "there")]
    assert stored[0].height > 40
    alike(stored[1], stored[0])


def run_cli(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "atlas.cli.main", *arguments],
        capture_output=True, text=True, check=False, env={k: v for k, v in os.environ.items() if k not in QUICK},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ('openjdk version "17.0.21" 2026-10-20', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("what?", None),
    ],
)
def test_the_version_of_java_is_read(monkeypatch, tmp_path, line, version):
    fake_java(monkeypatch, tmp_path, line)
    assert java_version() == version


def fake_java(monkeypatch, folder, line):
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)


def test_without_java_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    expected = (
        f"engine spark needs Java {JAVA_VERSION} or later, and there is none: install Debian's package "
        "openjdk-17-jre-headless, or set JAVA_HOME"
    )
    with pytest.raises(AtlasError, match=re.escape(expected)):
        require_spark()
    fake_java(monkeypatch, tmp_path, 'java version "11.0.2"')
    with pytest.raises(AtlasError, match="needs Java 17 or later, and the one found is 11: install"):
        require_spark()


def test_without_pyspark_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setattr(atlas.spark.session.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        AtlasError, match=re.escape("engine spark needs pyspark and sqlglot: pip install 'neuron-atlas[spark]'")
    ):
        require_spark()


def test_an_unfinished_export_is_refused_before_spark_starts(export, tmp_path, monkeypatch):
    broken = shutil.copytree(export, tmp_path / "out")
    (broken / MANIFEST).unlink()
    monkeypatch.setattr(atlas.spark.session, "_start", lambda master: pytest.fail("Spark was started"))
    with pytest.raises(StoreError, match=r"holds no manifest\.json"), open_spark(broken):
        pass


@needs_sqlglot
def test_macros_are_read_however_they_are_laid_out():
    from sqlglot import exp

    from atlas.spark.dialect import read_macros

    text = """-- a comment; with a semicolon
CREATE OR REPLACE MACRO one(a, "by":='x, (y;',c := greatest(1, 2)) AS TABLE select ';' as s, "by" from t where i = a -- no
; create macro two() as table
from t;"""
    one, two = read_macros(text).values()
    assert list(read_macros(text)) == ["one", "two"]
    assert one.parameters == ("a", "by", "c")
    assert {name: value.sql("duckdb") for name, value in one.defaults.items()} == {
        "by": "'x, (y;'",
        "c": "GREATEST(1, 2)",
    }
    assert [column.name for column in one.body.find_all(exp.Column)] == ["by", "i", "a"]
    assert two.parameters == () and two.body.sql("duckdb") == "SELECT * FROM t"


@needs_sqlglot
def test_every_macro_that_duckdb_has_is_read_with_its_parameters():
    from atlas.spark.dialect import read_macros

    with duckdb.connect() as connection:
        for name in ("schema", "views", "macros"):
            connection.execute(read_sql(name))
        rows = connection.execute(
            "select function_name, parameters from duckdb_functions() where not internal"
        ).fetchall()
    assert {name: list(macro.parameters) for name, macro in read_macros(read_sql("macros")).items()} == dict(rows)


@needs_sqlglot
@pytest.mark.parametrize(
    "name", ["sum_distances", "compute_null", "compute_stability", "compute_contrast", "top_neurons", "why"]
)
def test_a_query_is_translated_whole(name):
    from atlas.spark.dialect import read_macros, translate

    settings = dict.fromkeys(re.findall(r"\$(\w+)", read_sql(name)), 1)
    columns = [f"{kind}_{n}" for kind in ("distance", "null", "sample") for n in (0, 12)]
    text = translate(read_sql(name), settings, columns=columns, macros=read_macros(read_sql("macros"))).select
    assert not re.search(r"columns\(|\$|:\w|qualify|list_distance|euclidean_distance", text, re.IGNORECASE)


@needs_sqlglot
def test_columns_are_written_out_as_what_they_match():
    from atlas.spark.dialect import translate

    text = """create or replace temp table t as with s as (
        unpivot (select a, sum(columns('f_[0-9]+')) from x group by a) on columns('f_[0-9]+') into name n value v
    ) select * from s"""
    found = translate(text, {}, columns=["f_1", "g_1", "f_20"])
    assert (found.kind, found.target) == ("create", "t")
    assert found.select == (
        "WITH s AS (SELECT * FROM (SELECT a, SUM(f_1) AS f_1, SUM(f_20) AS f_20 FROM x GROUP BY a) "
        "UNPIVOT(v FOR n IN (f_1, f_20))) SELECT * FROM s"
    )
    with pytest.raises(ValueError, match="no column matches"):
        translate(text, {}, columns=["g_1"])


@needs_sqlglot
def test_columns_are_written_out_under_the_names_their_alias_makes():
    from atlas.spark.dialect import translate

    text = """with r as (select t.k, 2 * columns('^(.)_([0-9]+)') as 'new_\\2\\1' from t)
    select r.k, sum(columns('new_.*')) from r group by r.k"""
    assert translate(text, {}, columns=["k", "a_1", "b_20"]).select == (
        "WITH r AS (SELECT t.k, 2 * a_1 AS new_1a, 2 * b_20 AS new_20b FROM t) "
        "SELECT r.k, SUM(new_1a) AS new_1a, SUM(new_20b) AS new_20b FROM r GROUP BY r.k"
    )


@needs_sqlglot
def test_values_are_quoted():
    from atlas.spark.dialect import translate

    found = translate("select $a as a, $b as b", {"a": "it's \\ $b", "b": None})
    assert found.select == "SELECT 'it\\'s \\\\ $b' AS a, NULL AS b"
