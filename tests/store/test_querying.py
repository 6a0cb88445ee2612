"""A user's SQL only reads, can be stopped, comes a batch at a time, and leaves nothing behind, whatever happens to it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import handmade
import numpy as np
import pytest
from atlas.cli.main import cli
from click.testing import CliRunner

import atlas.store.querying
import atlas.store.spill
from atlas.errors import AtlasError, StoreError
from atlas.store.file import Store
from atlas.store.querying import BATCH

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small atlas, for queries that do not need it."""
    path = tmp_path_factory.mktemp("made") / "a.atlas"
    return handmade.make_store(path, [handmade.random_raw(RNG, 20, 6)], handmade.unit_vectors(RNG, 20))


def run(*arguments, given=None):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)


def rows(made, sql):
    """The rows of a query as a strict parser reads them."""
    found = run("query", made.path, sql, "--format", "json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout, parse_constant=lambda token: pytest.fail(f"{token} in JSON"))


EVERY_TYPE = {
    "[1, null]": [1, None],
    "[[1.5], []]": [[1.5], []],
    "array_value(1, 2)": [1, 2],
    "{'a': 1, 'b': {'c': [to_days(1)]}}": {"a": 1, "b": {"c": ["1 day"]}},
    "map {'k': [1, 2]}": {"k": [1, 2]},
    "map {1: {'x': 'nan'::float}}": {"1": {"x": None}},
    "'\\xAB\\x00'::blob": "ab00",
    "['\\xAB'::blob]": ["ab"],
    "'10101'::bit": "10101",
    "union_value(k := 1)": "1",
    "[union_value(k := 1)]": ["1"],
    "to_months(14)": "1 year 2 months",
    "'b'::enum('a', 'b')": "b",
    "['b'::enum('a', 'b')]": ["b"],
    "'6f1a3a54-0a39-4a4c-a5ab-43c7c8b3a9b4'::uuid": "6f1a3a54-0a39-4a4c-a5ab-43c7c8b3a9b4",
    "170141183460469231731687303715884105727::hugeint": 2**127 - 1,
    "(-170141183460469231731687303715884105727)::hugeint": 1 - 2**127,
    "340282366920938463463374607431768211455::uhugeint": str(2**128 - 1),
    "18446744073709551615::ubigint": 2**64 - 1,
    "1.5::decimal(38, 10)": 1.5,
    "1234567890123456789.5::decimal(38, 1)": "1234567890123456789.5",
    "'nan'::double": None,
    "'-inf'::float": None,
    "'infinity'::timestamp": "infinity",
    "date '290000-01-01'": "290000-01-01",
    "date '-0044-03-15'": "0045-03-15 (BC)",
    "timestamp '2026-01-02 03:04:05'": "2026-01-02 03:04:05",
    "time '24:00:00'": "24:00:00",
    "'12:00:00+02'::timetz": "12:00:00+02",
    "true": True,
    "null": None,
    "'{\"a\": 1}'::json": '{"a": 1}',
    "'a' || chr(27) || chr(8238)": "a\x1b\u202e",
}


def test_values_of_every_type_are_shown_in_json(made):
    listed = ", ".join(f"{sql} as c{at}" for at, sql in enumerate(EVERY_TYPE))
    [row] = rows(made, f"select {listed}")
    assert dict(zip(EVERY_TYPE, row.values(), strict=True)) == EVERY_TYPE


def test_values_of_every_type_have_a_cell_in_csv_and_a_line_in_a_table(made):
    listed = ", ".join(f"{sql} as c{at}" for at, sql in enumerate(EVERY_TYPE))
    found = run("query", made.path, f"select {listed}", "--format", "csv")
    names, cells = csv.reader(io.StringIO(found.stdout))
    assert len(names) == len(cells) == len(EVERY_TYPE)
    by_sql = dict(zip(EVERY_TYPE, cells, strict=True))
    assert json.loads(by_sql["{'a': 1, 'b': {'c': [to_days(1)]}}"]) == {"a": 1, "b": {"c": ["1 day"]}}
    assert by_sql["'\\xAB\\x00'::blob"] == "ab00"
    assert by_sql["170141183460469231731687303715884105727::hugeint"] == str(2**127 - 1)
    found = run("query", made.path, f"select {listed}")
    assert (found.exit_code, found.stdout.count("\n")) == (0, 2)


def test_vectors_of_an_atlas_have_a_cell_in_csv(made):
    found = run("query", made.path, "select vector from embeddings limit 1", "--format", "csv")
    assert len(json.loads(list(csv.reader(io.StringIO(found.stdout)))[1][0])) == 8


def test_a_timestamp_with_a_zone_is_shown_as_duckdb_writes_it(made):
    [row] = rows(made, "select '2026-01-02 03:04:05+00'::timestamptz as t, epoch(t) as s")
    assert row["t"].startswith("2026-01-0") and row["s"] == 1767323045


def test_columns_of_one_name_are_told_apart(made):
    assert rows(made, "select 1 a, 2 a, 3 a_1") == [{"a": 1, "a_1": 2, "a_1_1": 3}]


@pytest.mark.parametrize(
    "sql",
    [
        "-- best\nselect 1 a",
        "--best\nselect 1 a",
        "/* why */ select 1 a",
        "- - 1" and "-- x\n-- y\n\nselect 1 a;",
        "select 0 a; select 1 a",
        "from (select 1 a)",
        "values (1)",
        "with t as (select 1 a) from t",
    ],
)
def test_a_query_may_begin_with_a_comment(made, sql):
    found = run("query", made.path, sql, "--format", "csv")
    assert (found.exit_code, found.stdout.splitlines()[1:]) == (0, ["1"]), found.output
    found = run("query", "--format", "csv", made.path, sql)
    assert found.stdout.splitlines()[1:] == ["1"]


def test_a_dash_reads_the_query_from_stdin(made):
    assert run("query", made.path, "-", "--format", "csv", given="-- one\nselect 1 a").stdout == "a\n1\n"
    found = run("query", made.path, "-", given=b"select '\xff'")
    assert isinstance(found.exception, StoreError) and "stdin is not UTF-8" in str(found.exception)


@pytest.mark.parametrize("sql", ["describe prompts", "show tables", "summarize prompts", "explain from prompts"])
def test_questions_about_tables_and_plans_are_queries_too(made, sql):
    assert run("query", made.path, sql).exit_code == 0


def test_a_pivot_is_a_query(made):
    assert rows(made, "pivot (select 1 a, 2 b) on a using sum(b)") == [{"1": 2}]


REFUSED = [
    "copy (select 1) to '{spill}/x.csv'",
    "export database '{spill}'",
    "import database '{spill}'",
    "explain analyze copy (select 1) to '{spill}/x.csv'",
    "explain /* */ analyze copy (select 1) to '{spill}/x.csv'",
    "select 1; copy (select 1) to '{spill}/x.csv'",
    "copy (select 1) to '{spill}/x.csv'; select 1",
    "attach '{spill}/x.db'",
    "attach ':memory:' as m",
    "detach held",
    "create table t as select 1",
    "create temp table t as select 1",
    "insert into topics values (1)",
    "delete from topics",
    "update topics set name = 'x'",
    "truncate topics",
    "drop table topics",
    "alter table topics rename to t",
    "set threads = 1",
    "reset threads",
    "use held",
    "pragma enable_profiling",
    "call enable_logging()",
    "install httpfs",
    "load httpfs",
    "update extensions",
    "checkpoint",
    "vacuum",
    "begin",
    "prepare p as select 1",
    "execute p",
    "set variable x = 1",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_no_query_is_refused_before_anything_runs(made, sql):
    spill = made.path.with_name("spilled")
    with pytest.raises(StoreError, match=r"SQL error: .* no query, and only queries run here"):
        made.query(sql.format(spill=spill))
    assert sorted(made.path.parent.iterdir()) == [made.path]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("selec 1", 'SQL error: Parser Error: syntax error at or near "selec"'),
        ("from nothing", "SQL error: Catalog Error: Table with name nothing does not exist!"),
        ("from read_text('/etc/hosts')", "SQL error: Permission Error"),
        ("from read_csv('no/such.csv')", "SQL error: Permission Error"),
        ("select error('no such file or directory')", "no such file or directory"),
        ("select error('no space left')", "no space left"),
        ("select error('could not set lock')", "could not set lock"),
        ("select text::int from prompts", "SQL error: Conversion Error"),
        ("select case when range = 30000 then error('late') end from range(40000)", "late"),
        ("select '\ud800'", "holds a character that no UTF-8 text has"),
    ],
)
def test_an_error_of_the_users_sql_is_said_as_it_is(made, sql, message):
    for ask in (made.query, lambda text: list(streamed(made, text))):
        with pytest.raises(StoreError) as caught:
            ask(sql)
        assert message in str(caught.value) and "\n" not in str(caught.value)
        assert "no such folder" not in str(caught.value) and "^" not in str(caught.value)


def test_a_name_that_no_text_can_hold_is_said(made):
    from atlas.api import Atlas

    for ask in (Atlas(made).top, Atlas(made).sae_key, Atlas(made).vector):
        with pytest.raises(AtlasError) as caught:
            ask("a\ud800")
        str(caught.value).encode()


def streamed(made, sql, limit=None):
    with made.stream(sql, limit=limit) as batches:
        yield from batches


def test_rows_come_a_batch_at_a_time_before_the_query_has_ended(made):
    heights = []
    for batch in streamed(made, "select range as n from range(1000000000000)"):
        heights.append(batch.height)
        if len(heights) == 3:
            break
    assert heights == [BATCH] * 3


def test_batches_hold_every_row_once_in_its_order(made):
    batches = list(streamed(made, "select range as n from range(25000) order by n desc"))
    assert [n for batch in batches for n in batch["n"]] == list(range(24999, -1, -1))
    assert [batch.height for batch in streamed(made, "select 1 a where false")] == [0]
    assert sum(batch.height for batch in streamed(made, "from range(25000)", limit=12345)) == 12345


def test_a_terminal_gets_so_many_rows_and_a_pipe_all(made, monkeypatch):
    sql = "select range as n from range(5000)"
    assert run("query", made.path, sql, "--format", "csv").stdout.count("\n") == 5001
    found = run("query", made.path, sql, "--format", "csv", "--limit", "7")
    assert found.stdout.count("\n") == 8 and "the first 7 rows are shown" in found.stderr
    monkeypatch.setattr("atlas.cli.ask.on_terminal", lambda: True)
    found = run("query", made.path, sql, "--format", "json")
    assert len(json.loads(found.stdout)) == 1000 and "the first 1,000 rows are shown" in found.stderr
    found = run("query", made.path, sql, "--format", "json", "--limit", "0")
    assert len(json.loads(found.stdout)) == 5000 and found.stderr == ""


ENDLESS = {
    "counting": "select count(*) from range(1000000000000) where range % 7 = 3",
    "sorting": "from range(2000000000) order by hash(range)",
    "joining": "select count(*) from range(10000000) a, range(10000000) b where a.range * b.range = 7",
    "many rows": "select range, range::varchar from range(1000000000000)",
}


def interrupt_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return time.monotonic() + seconds


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("way", ["query", "stream"])
def test_ctrl_c_stops_a_query_within_a_second(made, name, way):
    if (name, way) == ("many rows", "query"):
        pytest.skip("fills the memory first")
    store = Store(made.path, memory_limit="200MB")
    began = interrupt_after(0.4)
    with pytest.raises(KeyboardInterrupt):
        _ = store.query(ENDLESS[name]) if way == "query" else [None for _ in streamed(store, ENDLESS[name])]
    assert time.monotonic() - began < 1
    assert sorted(made.path.parent.iterdir()) == [made.path], "nothing is left behind"
    assert made.query("select 1 a").item() == 1


def test_the_command_leaves_soon_when_duckdb_does_not_stop(made, monkeypatch):
    left = threading.Event()
    monkeypatch.setattr("atlas.cli.ask.PATIENCE", 0.05)
    monkeypatch.setattr("atlas.cli.ask.leave", left.set)
    monkeypatch.setattr(atlas.store.querying, "read_batches", lambda *_, **__: left.wait(5))
    from atlas.cli.ask import stopped_soon

    interrupt_after(0.1)
    with pytest.raises(KeyboardInterrupt), stopped_soon():
        try:
            time.sleep(5)
        finally:
            assert left.wait(2), "DuckDB does not stop, and the process is left"


@pytest.mark.parametrize("name", ["many rows", "counting"])
def test_ctrl_c_ends_the_command_with_one_word(made, name):
    script = (
        "import sys; from atlas.cli.main import main; import polars, pyarrow; print(flush=True); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "query", str(made.path), ENDLESS[name], "--format", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(1.5)  # DuckDB is at work
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, error = process.communicate(timeout=20)
        assert time.monotonic() - began < 3
    assert (process.returncode, error) == (1, "\nstopped\n")


SPILLING = "select count(*) from (select range, hash(range) h from range(6000000) order by h, range limit 5999999)"


def test_a_query_that_spills_uses_a_folder_of_its_own_and_removes_it(made):
    store = Store(made.path, memory_limit="60MB", threads=1)
    seen = set()
    done = threading.Event()

    def watch():
        while not done.wait(0.005):
            seen.update(path.name for path in made.path.parent.iterdir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert store.query(SPILLING).item() == 5999999
    finally:
        done.set()
        watcher.join()
    assert any(name.startswith(f"a.atlas.tmp-{os.getpid()}-") for name in seen)
    assert sorted(made.path.parent.iterdir()) == [made.path]


def test_what_a_query_may_put_on_the_disk_is_bounded(made, monkeypatch):
    monkeypatch.setattr(atlas.store.spill, "READING_LIMIT", 4 << 20)
    with pytest.raises(
        StoreError, match=r"the query needs more than 60MB of memory and the disk.* raise --memory-limit"
    ):
        Store(made.path, memory_limit="60MB", threads=1).query(SPILLING)
    assert sorted(made.path.parent.iterdir()) == [made.path]


def test_the_memory_of_a_query_can_be_set(made):
    found = run("query", made.path, "select current_setting('memory_limit') as m", "--memory-limit", "123MiB")
    assert "123.0 MiB" in found.stdout
    found = run("query", made.path, "select 1", "--memory-limit", "much")
    assert "memory limit is not a size" in str(found.exception)


def test_folders_of_killed_processes_are_cleared_and_those_in_use_are_not(made):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    base = made.path.parent
    left = base / f"a.atlas.tmp-{ended.pid}-0123abcd"
    old, other, mine = base / "a.atlas.tmp", base / "b.atlas.tmp", base / "a.atlas.tmp-keep"
    for folder in (left, old, other, mine):
        folder.mkdir()
        (folder / "duckdb_temp_storage_S32K-0.tmp").write_bytes(b"x")
    with (old / "duckdb_temp_storage_S32K-0.tmp").open("rb"):
        made.check()
        assert not left.exists() and old.exists()
    made.check()
    assert not old.exists() and other.exists() and mine.exists()
    old.mkdir()
    (old / "notes.txt").write_text("mine")
    made.check()
    assert (old / "notes.txt").read_text() == "mine"
    for folder in (old, other, mine):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
