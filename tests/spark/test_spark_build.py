"""A build on Spark ends with the tables of a build in one process, whatever dies on the way."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import dying
import polars as pl
import pytest
import tiny
from contents import assert_same, tables
from spark_here import QUICK, needs_spark

import atlas.building.plan
from atlas.building.build import build_atlas
from atlas.building.shards import Shard, ShardWriter
from atlas.building.staging import STAGED
from atlas.errors import AtlasError, StoreError
from atlas.spark import build as spark_build
from atlas.spark.build import describe, explain, load_models, name_shard, run_on_spark
from atlas.spark.session import first_cause, start_spark
from atlas.texts.prompts import collect_texts

FEW = collect_texts(tiny.PROMPTS[:20])
COUNT = len(FEW.texts)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, loaded_once):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", dying.SHARD_PROMPTS)


@pytest.fixture(scope="module")
def arguments(gpt2_folder, sae_folder):
    saes = [(str(sae_folder), "residual"), (str(sae_folder), "heads")]
    return {"prompts": FEW, "model": str(gpt2_folder), "saes": saes, "batch_size": dying.BATCH_SIZE}


@pytest.fixture(scope="module")
def calm(tmp_path_factory, arguments, loaders):
    """The tables of a build in one process."""
    path = tmp_path_factory.mktemp("calm") / "x.atlas"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas.building.plan, "SHARD_PROMPTS", dying.SHARD_PROMPTS)
        for name, loader in loaders.items():
            patch.setattr(atlas.building.build, name, loader)
        build_atlas(path, **arguments)
    return tables(path)


@pytest.fixture
def threads(monkeypatch):
    """Spark's tasks run in a thread of this process; a list of the shards that were computed."""
    done = []
    monkeypatch.setattr(spark_build, "start_spark", dying.start_threads)
    compute = spark_build.compute_task
    monkeypatch.setattr(spark_build, "compute_task", lambda *args: (compute(*args), done.append(args[2].shard.first)))
    return done


def stop_after(count):
    """A progress that stops a build when so many prompts are in."""

    def progress(stage, done, total):
        if stage == "prompts" and done >= count:
            raise KeyboardInterrupt

    return progress


@needs_spark
def test_killed_executors_and_workers_do_not_change_what_is_built(tmp_path, arguments, calm, monkeypatch):
    """Executors are processes of their own: one of them is killed in the middle of a shard, and so is one's Python."""
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    marks = tmp_path / "marks"
    marks.mkdir()

    def compute_and_die(recipe, folder, task):
        """Computes a shard, and kills when its rows are written and do not have their name yet."""
        import os
        import pathlib
        import signal
        import time

        from atlas.spark.build import compute_task

        def parent(process):
            return int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])

        def kill(path, target):
            executor = parent(parent(os.getpid()))  # this process is a child of the daemon of the executor
            os.kill(executor if task.shard.first == 0 else os.getpid(), signal.SIGKILL)
            time.sleep(60)

        mark = marks / str(task.shard.first)
        if task.shard.first in (0, 8) and not mark.exists():
            mark.touch()
            pathlib.Path.rename = kill
        compute_task(recipe, folder, task)

    monkeypatch.setattr(spark_build, "compute_task", compute_and_die)
    path = tmp_path / "x.atlas"
    report = build_atlas(path, **arguments, run_shards=partial(run_on_spark, master="local-cluster[2,1,1024]"))
    assert {mark.name for mark in marks.iterdir()} == {"0", "8"}
    assert (report.shards, report.new_prompts) == (3, COUNT)
    assert_same(tables(path), calm)
    assert dying.leftovers(path) == []


@needs_spark
def test_what_an_executor_cannot_load_is_said_in_one_line(tmp_path, arguments, gpt2_folder, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    elsewhere = str(tmp_path / "not-on-executors")
    real = spark_build.describe
    monkeypatch.setattr(spark_build, "describe", lambda e: dataclasses.replace(real(e), model=elsewhere))
    with pytest.raises(AtlasError) as caught:
        build_atlas(tmp_path / "x.atlas", **arguments, run_shards=partial(run_on_spark, master="local[1]"))
    message = str(caught.value)
    assert message.startswith(f"an executor of Spark says: cannot load language model {elsewhere}: ")
    assert "\n" not in message
    assert "there is no such folder" in message


@needs_spark
def test_a_master_that_is_none_is_said_in_one_line():
    expected = "Apache Spark does not start at nonsense: .*Master .*; give another --master"
    with pytest.raises(AtlasError, match=expected) as caught, start_spark("nonsense"):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("26/11/27 WARN Utils: Set SPARK_LOCAL_IP if an exception says so\n", None),
        (
            'WARN: a word\nException in thread "main" org.x.SparkException: Master must start with local\n\tat org.A(A.scala:1)\n',
            "org.x.SparkException: Master must start with local",
        ),
        (
            "WARN Client: no connection\norg.x.SparkException: Awaiting\n\tat a.B(B.scala:2)\nCaused by: java.io.IOException: no\n"
            "\tat a.C(C.java:3)\n\t... 4 more\nCaused by: java.net.UnknownHostException: nowhere\n\tat a.D(D.java:4)\n"
            "ERROR Context\njava.lang.Later: follows from it\n\tat a.E(E.java:5)\n",
            "java.net.UnknownHostException: nowhere",
        ),
        (
            "An error occurred\n: org.x.SparkException: Could not parse 'local[x]'\n\tat a.B(B.java:1)\n",
            "org.x.SparkException: Could not parse 'local[x]'",
        ),
    ],
)
def test_why_spark_does_not_start_is_the_cause_below_the_first_trace(said, cause):
    assert first_cause(said) == cause


MOMENTS = [("progress", "prompts", 0), ("progress", "prompts", 8), ("sql", "finish_shard", 3)]


def test_a_driver_killed_again_and_again_goes_on_where_it_stopped(tmp_path, arguments, calm, elsewhere):
    path = tmp_path / "x.atlas"
    moving = arguments | {"run_shards": dying.run_on_threads}
    assert elsewhere(dying.kill_builds, {"path": path, **moving}, MOMENTS) == 0
    assert dying.leftovers(path)
    assert build_atlas(path, **moving).prompts == COUNT
    assert_same(tables(path), calm)
    assert dying.leftovers(path) == []


def test_shards_whose_parquet_is_there_are_not_computed_again(tmp_path, arguments, calm, threads):
    path, staging = tmp_path / "x.atlas", tmp_path / "shared"
    run = partial(run_on_spark, master="none", staging=staging)
    with pytest.raises(KeyboardInterrupt):
        build_atlas(path, **arguments, progress=stop_after(8), run_shards=run)
    assert sorted(threads) == [0, 8, 16]
    build_atlas(path, **arguments, run_shards=run)
    assert sorted(threads) == [0, 8, 16]
    assert_same(tables(path), calm)
    assert dying.leftovers(path) == [] and list(staging.iterdir()) == []


def test_a_build_begun_on_spark_and_finished_here_leaves_nothing(tmp_path, arguments, calm, threads):
    path = tmp_path / "x.atlas"
    with pytest.raises(KeyboardInterrupt):
        build_atlas(path, **arguments, progress=stop_after(8), run_shards=partial(run_on_spark, master="none"))
    assert dying.leftovers(path)
    build_atlas(path, **arguments)
    assert_same(tables(path), calm)
    assert dying.leftovers(path) == []


def test_what_was_staged_for_another_build_is_not_taken(tmp_path, arguments, calm, threads):
    path = tmp_path / "x.atlas"
    run = partial(run_on_spark, master="none")
    with pytest.raises(KeyboardInterrupt):
        build_atlas(path, **arguments | {"batch_size": 3}, progress=stop_after(8), run_shards=run)
    path.unlink()
    build_atlas(path, **arguments, run_shards=run)
    assert len(threads) == 6
    assert_same(tables(path), calm)
    assert dying.leftovers(path) == []


def test_a_stranger_in_the_staging_folder_is_left_alone_and_a_finished_build_starts_no_spark(
    tmp_path, arguments, threads, monkeypatch
):
    mine = tmp_path / "x.atlas.shards" / "letter.txt"
    mine.parent.mkdir()
    mine.write_text("Dear reader")
    run = partial(run_on_spark, master="none")
    build_atlas(tmp_path / "x.atlas", **arguments, run_shards=run)
    assert [file.name for file in mine.parent.iterdir()] == ["letter.txt"]
    monkeypatch.setattr(spark_build, "start_spark", lambda master: pytest.fail("Spark was started"))
    assert build_atlas(tmp_path / "x.atlas", **arguments, run_shards=run).shards == 0


def test_a_folder_that_an_executor_does_not_see_is_named(tmp_path):
    task = spark_build.Task("000000000-0123456789abcdef", Shard(0, 8, (0,)))
    with pytest.raises(StoreError, match="nowhere is not the folder that the driver sees: .* with --staging"):
        spark_build.compute_task(None, tmp_path / "nowhere", task)


def test_a_folder_in_which_the_driver_finds_nothing_is_named(tmp_path, arguments, threads, monkeypatch):
    monkeypatch.setattr(spark_build, "compute_task", lambda *args: None)
    monkeypatch.setattr(spark_build, "PATIENCE_SECONDS", 0)
    with pytest.raises(StoreError, match=r"x\.atlas\.shards does not hold what the executors wrote: .* with --staging"):
        build_atlas(tmp_path / "x.atlas", **arguments, run_shards=partial(run_on_spark, master="none"))


@pytest.fixture
def staged(tmp_path, arguments):
    """A planned build: the models of the driver, and its unfinished shards."""
    found = []

    def look(store, models, progress):
        found.append((models, ShardWriter(store, models.saes)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_atlas(tmp_path / "x.atlas", **arguments, run_shards=look)
    return found[0]


def test_an_executor_loads_what_the_driver_has_once(staged, monkeypatch):
    recipe = describe(staged[0])
    load_models.cache_clear()
    loads = []
    real = spark_build.load_language_model
    monkeypatch.setattr(spark_build, "load_language_model", lambda *a, **k: (loads.append(a), real(*a, **k))[1])
    mine, again = load_models(recipe), load_models(dataclasses.replace(recipe))
    assert mine is again and len(loads) == 1
    assert describe(mine) == recipe
    assert (mine.batch_size, sorted(mine.saes)) == (dying.BATCH_SIZE, [0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_hash": "x"}, "this model is not the one the atlas was built with"),
        ({"tokenizer_hash": "x"}, "this tokenizer is not the one"),
        ({"encoder_hash": "x"}, "encoder .* is not the one this atlas was built with"),
        ({"saes": "x"}, r"this SAE is not the one the atlas was built with \(residual\)"),
    ],
)
def test_other_weights_on_an_executor_are_refused(staged, change, message):
    recipe = describe(staged[0])
    if "saes" in change:
        change = {"saes": tuple(dataclasses.replace(sae, sae_hash="x") for sae in recipe.saes)}
    with pytest.raises(StoreError, match=message):
        load_models(dataclasses.replace(recipe, **change))


def test_the_name_of_a_shard_tells_what_its_rows_depend_on(staged):
    models, writer = staged
    recipe, shard = describe(models), writer.pending[0]
    prompts = writer.prompts(shard)
    one = dataclasses.replace(recipe.saes[0], sae_hash="x")
    names = [
        name_shard(shard, prompts, recipe),
        name_shard(dataclasses.replace(shard, sae_keys=(0,)), prompts, recipe),
        name_shard(shard, prompts.with_columns(text=pl.col("text") + "!"), recipe),
        name_shard(shard, prompts.with_columns(embedded=True), recipe),
        *(name_shard(shard, prompts, dataclasses.replace(recipe, **{name: "x"})) for name in (
            "model_hash", "tokenizer_hash", "encoder_hash", "batch_size", "dtype",
        )),
        name_shard(shard, prompts, dataclasses.replace(recipe, saes=(one, *recipe.saes[1:]))),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert all(STAGED.fullmatch(name) for name in names)
    elsewhere = dataclasses.replace(recipe, model="/moved", encoder="/moved", device="cuda")
    assert name_shard(shard, prompts, elsewhere) == names[0]


def test_another_attempt_that_was_first_is_left_alone(staged, tmp_path):
    models, writer = staged
    recipe, folder = describe(models), tmp_path / "x.atlas.shards"
    name, shard = next(iter(spark_build._stage(folder, writer, recipe).items()))
    task = spark_build.Task(name, shard)
    spark_build.compute_task(recipe, folder, task)
    before = (folder / name).stat().st_ino
    spark_build.compute_task(recipe, folder, task)
    assert (folder / name).stat().st_ino == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


TRACE = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent
failure: Lost task 0.3 in stage 0.0 (TID 3) (10.0.0.1 executor 1): {}
\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:561)
"""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
            '  File "worker.py", line 1, in main\natlas.errors.StoreError: /elsewhere is not the folder that the driver '
            "sees: name one that every machine has, with --staging\n",
            "an executor of Spark says: /here/x.atlas.shards is not the folder that the driver sees: name one",
        ),
        (
            "ExecutorLostFailure (executor 1 exited caused by one of the running tasks)",
            "Spark lost the executor of one",
        ),
        (
            "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)",
            "Spark lost the executor of one",
        ),
        (
            "ModuleNotFoundError: No module named 'atlas'",
            "the Python of Spark's executors cannot import atlas: install",
        ),
    ],
)
def test_what_stopped_an_executor_is_one_line(cause, said):
    found = str(explain(RuntimeError(TRACE.format(cause)), Path("/here/x.atlas.shards"), ["a shard"]))
    assert found.startswith(said)
    assert "\n" not in found
    assert "Traceback" not in found


def test_a_bug_on_an_executor_keeps_its_traceback():
    error = RuntimeError(TRACE.format("ZeroDivisionError: division by zero"))
    assert explain(error, Path("/here/x.atlas.shards"), ["a shard"]) is None


def test_what_an_executor_could_not_do_is_told_in_the_staging_folder_and_forgotten_by_the_next_build(staged, tmp_path):
    models, writer = staged
    recipe, folder = describe(models), tmp_path / "x.atlas.shards"
    name, shard = next(iter(spark_build._stage(folder, writer, recipe).items()))
    with pytest.raises(AtlasError, match="nowhere") as caught:
        spark_build.compute_task(dataclasses.replace(recipe, model="/nowhere"), folder, spark_build.Task(name, shard))
    told = explain(RuntimeError("Spark's own words"), folder, ["another shard", name])
    assert str(told) == f"an executor of Spark says: {caught.value}"
    assert explain(RuntimeError("Spark's own words"), folder, ["another shard"]) is None
    spark_build._stage(folder, writer, recipe)
    assert explain(RuntimeError("Spark's own words"), folder, [name]) is None
