"""Processes that share an atlas wait for each other, and nothing that was computed is lost because another one looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import tiny
from atlas.cli.main import cli
from click.testing import CliRunner
from contents import assert_same, tables

import atlas
import atlas.building.build
import atlas.building.plan
import atlas.store.file
from atlas.contrast.make_vectors import make_vectors
from atlas.errors import AtlasError
from atlas.evaluation.evaluate import evaluate_methods
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, prepare_evaluator
from atlas.evaluation.runs import MethodSetting
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options
from atlas.steering.steer import steer_prompts
from atlas.store.keeping import NotStored
from atlas.store.waiting import FOREVER, VARIABLE, InUse, alone, clear_mark, current_patience, keep_trying, patient
from atlas.texts.pairs import collect_pairs
from atlas.texts.prompts import collect_texts

HOLD = """
import duckdb, sys, time
held = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading")
held.execute("from atlas")
print("ready", flush=True)
time.sleep(float(sys.argv[3])) if len(sys.argv) > 3 else sys.stdin.read()
"""
WATCH = """
import sys, time
from atlas.store.file import Store
print("ready", flush=True)
while True:
    with Store(sys.argv[1], patience=60).read() as session:
        session.ask("atlas_size")
    time.sleep(0.02)
"""


@contextmanager
def process(code, *arguments):
    """Another Python process that has said that it is ready."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout.readline() == "ready\n"
        yield started
        started.kill()


@pytest.fixture
def scored(atlas_file, loaded_once):
    """An atlas with a scored topic and what its default selection needs."""
    opened = atlas.open(atlas_file)
    opened.score("sea", list(tiny.SEA), min_support=2)
    opened.score("sea", list(tiny.SEA), min_support=2, scorer="contrast")
    return opened


@pytest.fixture
def steering(scored):
    """What steers towards the sea."""
    return prepare_steering(RecordedModels(scored.store), "sea", {"add": Options()})


class Taken:
    """An attempt that finds its file taken so many times."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        if self.left:
            self.left -= 1
            raise InUse("x.atlas is in use by cat (PID 7): wait until it has finished, or stop it")
        return "open"


def test_an_attempt_is_made_again_until_the_file_is_free():
    assert keep_trying(Taken(4), 10) == "open"


def test_with_no_patience_left_the_last_error_is_raised():
    taken = Taken(3)
    with pytest.raises(InUse, match="PID 7"):
        keep_trying(taken, 0)
    assert taken.left == 2
    started = time.monotonic()
    with pytest.raises(InUse):
        keep_trying(Taken(1000), 0.2)
    assert 0.2 <= time.monotonic() - started < 2


@pytest.mark.parametrize(("patience", "limit"), [(30.0, "; waiting, 30 s at most"), (FOREVER, "; waiting")])
def test_a_long_wait_is_said_once_and_a_short_one_never(caplog, monkeypatch, patience, limit):
    keep_trying(Taken(2), patience)
    assert caplog.messages == []
    monkeypatch.setattr("atlas.store.waiting.SILENT", 0)
    keep_trying(Taken(4), patience)
    assert caplog.messages == [f"x.atlas is in use by cat (PID 7){limit} (Ctrl-C stops)"]


def test_the_patience_is_the_innermost_one_or_the_environments_or_a_minute(monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert current_patience() == 60
    monkeypatch.setenv(VARIABLE, "2.5")
    assert current_patience() == 2.5
    with patient():
        assert current_patience() == FOREVER
        with patient(7):
            assert current_patience() == 7
    assert current_patience() == 2.5
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(AtlasError, match=f"ATLAS_PATIENCE is '{wrong}': give a number of seconds"):
            current_patience()


def test_a_reader_waits_for_a_writer_and_a_writer_for_a_reader(atlas_file, caplog):
    for held, mode in (("writing", "read"), ("reading", "write")):
        with process(HOLD, atlas_file, held, 1.2) as other:
            with getattr(atlas.store.file.Store(atlas_file, patience=30), mode)() as session:
                assert session.ask("atlas_size").item(0, "prompts") == 60
            assert other.wait(5) == 0
            assert f"(PID {other.pid}); waiting, 30 s at most" in caplog.messages[-1]


def test_scores_and_vectors_wait_as_long_as_it_takes_and_are_stored(scored):
    """The usual patience is over at once here: what the models gave is not thrown away for it."""
    path = scored.store.path
    texts = {"medicine": collect_texts(tiny.MEDICINE)}
    pairs = collect_pairs([("", text, other) for text, other in zip(tiny.MEDICINE, tiny.SEA, strict=False)])
    with process(HOLD, path, "reading", 2):
        scored.score_many(texts, min_support=2)
    with process(HOLD, path, "reading", 2):
        make_vectors(scored.store, "medical", pairs)
    assert scored.info()["topics"]["name"].to_list() == ["sea", "medicine"]
    assert scored.sql("select count(*) from vectors").item() == 4


def test_texts_that_cannot_be_stored_are_given_all_the_same_with_a_warning(scored, steering):
    shown = []
    with (
        process(HOLD, scored.store.path, "reading") as other,
        pytest.warns(NotStored, match=rf"these texts are not stored in .*\(PID {other.pid}\).*run the same command"),
    ):
        found = steer_prompts(steering, ["The ship"], sampling=Sampling(3), show=shown.append)
    assert [text.method for text in found] == ["add"] and shown == [found]
    assert scored.sql("from generations").height == 0


def test_texts_are_shown_before_the_wait_to_store_them(scored, steering, monkeypatch):
    monkeypatch.setenv(VARIABLE, "30")
    with process(HOLD, scored.store.path, "reading") as other:
        steer_prompts(steering, ["The ship"], sampling=Sampling(3), show=lambda texts: other.stdin.close())
    assert scored.sql("from generations").height == 1


def test_figures_that_cannot_be_stored_are_given_all_the_same_with_a_warning(scored, steering, encoder):
    data = EvaluationSet(("A boat at sea.",), ("The soup.",), ("Rain",))
    config = EvaluationConfig(samples=1, sampling=Sampling(3))
    evaluator = prepare_evaluator(scored.store, "sea", data, config, recorded=steering.recorded, encoder=encoder)
    shown = []
    with process(HOLD, scored.store.path, "reading"), pytest.warns(NotStored, match="these texts and figures are not"):
        frame = evaluate_methods(evaluator, [MethodSetting("prefix")], show=shown.append)
    assert frame.height > 0 and shown == [frame]
    assert scored.sql("from runs").height == 0


def test_steer_prints_its_texts_and_ends_well_when_they_cannot_be_stored(scored):
    arguments = ["steer", scored.store.path, "sea", "The ship", "--max-new-tokens", "3", "--method", "add"]
    with process(HOLD, scored.store.path, "reading"), pytest.warns(NotStored):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.exception
    assert result.stdout.startswith("The ship ...\n  add (strength ")


def test_a_build_survives_whoever_looks_at_it_all_the_time(tmp_path, gpt2_folder, sae_folder, loaded_once, monkeypatch):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 2)
    few = collect_texts(tiny.PROMPTS[:30])
    arguments = {"model": str(gpt2_folder), "saes": [(str(sae_folder), "residual"), (str(sae_folder), "heads")]}
    calm, watched = tmp_path / "calm.atlas", tmp_path / "watched.atlas"
    atlas.building.build.build_atlas(calm, few, **arguments)
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 2)
    atlas.building.build.build_atlas(watched, collect_texts(tiny.PROMPTS[:1]), **arguments)
    with process(WATCH, watched) as other:
        atlas.building.build.build_atlas(watched, few, **arguments)
        assert other.poll() is None
    assert_same(tables(watched, without=("shards",)), tables(calm, without=("shards",)), rel_tol=1e-4, abs_tol=1e-5)


def test_two_builds_of_a_file_take_turns_and_the_second_finds_nothing_to_do(
    tmp_path, gpt2_folder, sae_folder, loaded_once, monkeypatch
):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 4)
    few, reports = collect_texts(tiny.PROMPTS[:12]), []

    def build():
        saes = [(str(sae_folder), "residual")]
        reports.append(atlas.building.build.build_atlas(tmp_path / "x.atlas", few, model=str(gpt2_folder), saes=saes))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.shards for report in reports) == [0, 0, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["x.atlas"]


def test_a_mark_that_a_killed_build_left_stops_nobody(tmp_path):
    path = tmp_path / "x.atlas"
    (tmp_path / "x.atlas.lock").write_text("1")
    message = rf"is being built by another process \(PID {os.getpid()}\): wait"
    with alone(path), patient(0), pytest.raises(InUse, match=message), alone(path):
        pass
    with alone(path):
        clear_mark(path)
        assert (tmp_path / "x.atlas.lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.atlas.lock").write_text("1")
    clear_mark(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_signal_while_duckdb_works_is_an_interrupt(atlas_file, number, mode):
    def stop(*arguments):
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    try:
        with pytest.raises(KeyboardInterrupt), getattr(atlas.store.file.Store(atlas_file), mode)() as session:
            session._execute("select count(*) from range(100000000000) where range % 7 = 3")
    finally:
        signal.signal(number, before)
    assert atlas.open(atlas_file).info()["prompts"] == 60


STOPPED = """
import os, signal, sys
from atlas.store.session import Session
from atlas.cli.main import main
run, number = getattr(Session, sys.argv[1]), int(sys.argv[3])
def stop(session, name, *arguments, **parameters):
    if str(name) == sys.argv[2]:
        os.kill(os.getpid(), number)
        session._execute("select count(*) from range(100000000000) where range % 7 = 3")
    return run(session, name, *arguments, **parameters)
setattr(Session, sys.argv[1], stop)
main(sys.argv[4:])
"""


def stopped(method, name, number, *arguments):
    """The return code and output of a command that is stopped inside DuckDB when it calls a method of Session."""
    command = [sys.executable, "-c", STOPPED, method, name, int(number), *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_inside_duckdb_says_so_in_a_word_and_leaves_nothing(scored, tmp_path, number):
    path = scored.store.path
    scored_before = path.read_bytes()
    for method, name, *command in (
        ("ask", "top_neurons", "top", path, "sea"),
        ("ask", "neuron_ranges", "export", path, tmp_path / "out"),
    ):
        code, stdout, stderr = stopped(method, name, number, *command)
        assert (code, stdout, stderr.splitlines()[-1]) == (1, "", "stopped"), stderr
        assert "Traceback" not in stderr
    assert path.read_bytes() == scored_before
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.atlas"]


def test_an_import_that_is_stopped_inside_duckdb_leaves_nothing(atlas_file, tmp_path):
    from atlas.store.exchange import export_atlas

    export_atlas(atlas.store.file.Store(atlas_file), tmp_path / "out")
    code, _, stderr = stopped(
        "read_parquet", "prompts", signal.SIGINT, "import", tmp_path / "out", tmp_path / "x.atlas"
    )
    assert (code, stderr.splitlines()[-1]) == (1, "stopped")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "tiny.atlas"]


def test_threads_share_an_atlas_in_any_mix(scored, steering, gpt2_folder):
    """Reads, scores, steering and SQL at once, each with the result that it has alone."""
    model, tokenizer = steering.recorded.model
    expected = scored.top("sea", 3)
    errors, found = [], []

    def repeat(function):
        def run():
            try:
                for number in range(3):
                    found.append(function(number))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def score(number):
        return scored.score(f"medicine {number}", list(tiny.MEDICINE), min_support=2).height > 0

    def prepare():
        return prepare_steering(steering.recorded, "sea", {"add": Options()})

    def steer(number):
        return scored.steer(model, "sea", method="add", tokenizer=tokenizer) is not None

    threads = [
        repeat(lambda number: scored.top("sea", 3).equals(expected)),
        repeat(lambda number: scored.sql("select count(*) from prompts").item() == 60),
        repeat(lambda number: scored.why("sea", 1).height > 0),
        repeat(score),
        repeat(steer),
        repeat(lambda number: bool(steer_prompts(prepare(), ["Rain"], sampling=Sampling(3)))),
    ]
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert found == [True] * 18
    assert scored.info()["topics"].height == 4
    assert scored.sql("from generations").height == 3
    assert len(next(iter(scored._saes.values()))) == 1
