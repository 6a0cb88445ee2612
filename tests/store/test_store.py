"""An atlas file is opened, or it is said in one line why not; and every query in sql/ is one that is used and fits."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest
from atlas.cli.build import build

import atlas
from atlas.errors import StoreError
from atlas.scoring.distances import make_distances
from atlas.store.contents import query_files, read_sql
from atlas.store.file import SCHEMA_VERSION, STREAMING_LIMIT, Store
from atlas.store.replacement import replace_file
from atlas.store.session import now

QUERIES = sorted(query_files())
ASKING = {"ask", "_ask", "rows", "value", "read_statement", "run", "scan", "scan_here", "read_sql"}
DEFINITIONS = ("schema", "views", "macros")  # run whenever a file is made


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "empty.atlas"
    Store(path).create()
    return path


@pytest.fixture
def store(empty_file, tmp_path):
    """An atlas whose build has not begun."""
    path = tmp_path / "x.atlas"
    path.write_bytes(empty_file.read_bytes())
    return Store(path)


def names(store):
    with store.read() as session:
        return session.sql("select text from prompts order by all")["text"].to_list()


def add(session, text):
    session.append("prompts", pl.DataFrame({"text": [text], "prompt_id": [7]}))


def test_what_is_appended_is_there_afterwards_and_missing_columns_are_null(store):
    with store.write() as session:
        add(session, "a")
    with store.read() as session:
        assert session.sql("from prompts").rows() == [(7, "a", None, None)]


def test_after_an_error_nothing_of_a_transaction_is_kept(store):
    with pytest.raises(ZeroDivisionError), store.write() as session:
        add(session, "a")
        raise ZeroDivisionError
    assert names(store) == []


def test_after_an_error_in_sql_nothing_of_a_transaction_is_kept(store):
    with pytest.raises(duckdb.CatalogException), store.write() as session:
        add(session, "a")
        session.sql("from nowhere")
    assert names(store) == []


def test_parameters_are_bound_and_never_part_of_the_text(store):
    name = "x'); drop table topics; --"
    with store.write() as session:
        session.append("topics", pl.DataFrame({"topic_id": [0], "name": [name]}))
        session.run("drop_topic", topic=name)
    with store.read() as session:
        assert session.ask("all_topics")["name"].to_list() == [name]
        assert session.value("topic_id", topic=name) == 0
        assert session.value("topic_id", topic="x") is None
        assert session.ask("topic_ids", names=[name, "x"]).rows() == [(name, 0)]


def test_a_read_session_cannot_write(store):
    with pytest.raises((StoreError, duckdb.InvalidInputException)), store.read() as session:
        add(session, "a")
    assert names(store) == []


@pytest.mark.parametrize(
    "sql",
    [
        "from read_csv('{path}')",
        "from '{path}'",
        "copy prompts to '{path}'",
        "attach '{path}' as other",
        "set enable_external_access = true",
        "install httpfs",
        "from secret",
    ],
)
def test_a_session_reaches_neither_files_nor_settings_nor_variables(store, tmp_path, sql):
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    secret = pl.DataFrame({"a": [1]})  # noqa: F841 (what the last query must not find)
    with pytest.raises((StoreError, duckdb.Error)), store.read() as session:
        session.sql(sql.format(path=path))
    assert path.read_text() == "a\n1\n"
    with store.read() as session:
        assert session.sql("select 1 as one").item() == 1


def test_a_file_that_is_not_there_is_named_with_the_command_that_makes_it(tmp_path):
    path = tmp_path / "x.atlas"
    with pytest.raises(StoreError, match=re.escape(f"no atlas at {path}: build one with `atlas build {path} PROMPTS")):
        Store(path).check()
    assert not path.exists()


def make_folder(path):
    path.mkdir()


def make_database(path):
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table notes (a integer)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_folder, "is a folder: name an atlas file in it"),
        (
            lambda path: path.write_text("Dear reader, " * 1000),
            "is not an atlas, or is damaged: name another file, or build it again",
        ),
        (lambda path: path.write_text(""), "is not an atlas, or is damaged: name another file, or build it again"),
        (make_database, "is a DuckDB file but not an atlas: name another file"),
    ],
    ids=["folder", "text", "nothing in it", "other database"],
)
@pytest.mark.parametrize("mode", ["read", "write"])
def test_what_is_not_an_atlas_is_said_to_be_none_and_is_not_touched(tmp_path, make, message, mode):
    path = tmp_path / "x.atlas"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=message) as caught, getattr(Store(path), mode)():
        pass
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_with_damage_in_the_middle_is_said_to_be_damaged(store):
    data = bytearray(store.path.read_bytes())
    data[4096 * 3 : 4096 * 40] = b"\xff" * (4096 * 37)
    store.path.write_bytes(data)
    with pytest.raises(StoreError, match="is not an atlas, or is damaged"):
        store.check()


def test_another_schema_version_is_refused_with_both_numbers(store):
    with store.write() as session:
        session.append("atlas", pl.DataFrame({"schema_version": [SCHEMA_VERSION + 98]}))
    message = f"has schema version {SCHEMA_VERSION + 98}, this program reads version {SCHEMA_VERSION}: build it again"
    for mode in (store.read, store.write):
        with pytest.raises(StoreError, match=message), mode():
            pass


@pytest.fixture
def holder(store):
    """Another process that has the file open for writing; its id."""
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


def test_a_file_another_process_writes_is_in_use_and_the_process_is_named(store, holder):
    for mode in (store.read, store.write):
        with (
            pytest.raises(StoreError, match=rf"is in use by .*\(PID {holder}\): wait until it has finished") as caught,
            mode(),
        ):
            pass
        assert "\n" not in str(caught.value)


def test_beside_a_users_own_reading_connection_everything_is_read_and_a_write_says_what_to_close(store):
    with duckdb.connect(str(store.path), read_only=True) as connection:
        assert connection.sql("select count(*) from prompts").fetchall() == [(0,)]
        with store.read() as session:
            assert session.ask("all_topics").height == 0
        assert store.query("from prompts").height == 0
        with pytest.raises(StoreError, match=r"this program holds .* open: close your DuckDB connection .*con.close"):
            names_written(store)
        assert connection.sql("select count(*) from prompts").fetchall() == [(0,)]
    names_written(store)
    assert names(store) == ["a"]


def test_a_users_own_connection_stays_locked_after_ours_is_closed(store):
    write = (
        "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('insert into prompts by name select 1 as prompt_id')"
    )
    command = [sys.executable, "-c", write, str(store.path)]
    with duckdb.connect(str(store.path), read_only=True) as connection:
        for _ in range(2):
            store.check()
            other = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "Could not set lock" in other.stderr
        assert connection.sql("select count(*) from prompts").fetchall() == [(0,)]
    subprocess.run(command, check=True)
    assert len(names(store)) == 1


def names_written(store):
    with store.write() as session:
        add(session, "a")


def test_beside_a_users_own_writing_connection_every_session_says_what_to_close(store):
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("insert into prompts by name select 'mine' as text")
        for attempt in (store.check, lambda: store.query("from prompts"), lambda: names_written(store)):
            with pytest.raises(StoreError, match="close your DuckDB connection") as caught:
                attempt()
            assert "\n" not in str(caught.value)
    assert names(store) == ["mine"]


def test_beside_an_attached_file_everything_is_read_and_a_write_says_what_to_close(store):
    with duckdb.connect() as connection:
        connection.execute(f"attach '{store.path}' as ax (read_only)")
        assert store.query("from prompts").height == 0
        with pytest.raises(StoreError, match="close your DuckDB connection"):
            names_written(store)


def test_threads_read_and_write_one_atlas_and_wait_for_each_other(store):
    def work(number):
        for turn in range(6):
            if number % 3 == 0:
                with store.write() as session:
                    first = session.sql("select count(*) from prompts").item()
                    session.append("prompts", pl.DataFrame({"text": [f"{number} {turn}"], "prompt_id": [first]}))
            elif number % 3 == 1:
                with store.read() as session:
                    assert session.ask("atlas_size").height == 1
            else:
                assert store.query("select count(*) from prompts").height == 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    with store.read() as session:
        assert session.sql("select prompt_id from prompts order by all")["prompt_id"].to_list() == list(range(12))


def test_two_sessions_can_read_at_once(store):
    with store.read() as one, store.read() as other:
        assert one.ask("atlas_row").height == other.ask("atlas_row").height == 0


def test_a_new_file_takes_the_place_of_an_old_one_with_its_log(tmp_path):
    new, old, log = tmp_path / "new", tmp_path / "old", tmp_path / "old.wal"
    for path in (new, old, log):
        path.write_text(path.name)
    replace_file(new, old)
    assert old.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [old]


def test_what_a_dead_process_left_in_the_log_is_moved_into_the_file_by_a_checkpoint(store):
    code = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute(\"insert into prompts values (1, 'kept', null, 3)\"); "
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.path)], check=False).returncode == -9
    log = Path(f"{store.path}.wal")
    assert log.stat().st_size > 0
    store.checkpoint()
    assert not log.exists()
    assert names(store) == ["kept"]


def asked(text):
    """The queries that a module asks: names in the first two arguments of a call that takes the name of one."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    asking = [call for call in calls if ast.unparse(call.func).split(".")[-1] in ASKING]
    told = [node for call in asking for argument in call.args[:2] for node in ast.walk(argument)]
    return {node.value for node in told if isinstance(node, ast.Constant)}


def test_every_query_is_asked_by_the_program():
    assert asked('session.ask("why"); scan(session, "ranking" if x else "views"); print("macros")') == {
        "why",
        "ranking",
        "views",
    }
    folders = (Path(atlas.__file__).parent, Path(str(files("atlas.cli"))))
    found = set[str]().union(*(asked(path.read_text()) for folder in folders for path in folder.rglob("*.py")))
    assert [name for name in QUERIES if name not in found] == []


def test_a_row_that_is_appended_alone_is_stored_as_one_of_several(store):
    row = {"name": "it's \N{SNOWMAN}", "vector_id": 7, "tau": None, "pairs": 2, "is_current": True, "created_at": now()}
    with store.write() as session:
        session.append("vectors", pl.DataFrame([row]))
        session.append("vectors", pl.DataFrame([row, row]))
        found = session.sql("from vectors")
    assert found.n_unique() == 1 and found.height == 3
    assert found.select(list(row)).row(0, named=True) == row


def test_statements_of_one_file_share_its_parameters_and_take_no_other(store):
    with store.write() as session:
        for number, name in enumerate(("kept", "gone")):
            session.append("pairs", pl.DataFrame({"name": [name], "pair_id": [number]}))
            session.append("vectors", pl.DataFrame({"name": [name], "vector_id": [number]}))
        session.run("drop_behaviour", behaviour="gone")
        assert session.sql("select name from pairs union all select name from vectors").rows() == [("kept",)] * 2
        assert session.next_id("vector_id") == 1
        for wrong in ({}, {"behaviour": "kept", "topic": "kept"}):
            with pytest.raises(TypeError, match=r"drop_behaviour takes the parameters \['behaviour'\]"):
                session.run("drop_behaviour", **wrong)


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_says_in_its_first_line_what_it_gives(name):
    assert re.match(r"-- \w", read_sql(name))


def test_the_readme_names_every_folder_temporary_table_and_frame():
    said = set(re.findall(r"`(\w+)/?`", files("atlas.sql").joinpath("README.md").read_text()))
    made = set(re.findall(r"temp table (\w+) ?(?:as\b|\()", "".join(map(read_sql, QUERIES))))
    lent = r'\.frame\("(\w+)"'
    sources = "".join(path.read_text() for path in Path(atlas.__file__).parent.rglob("*.py"))
    inside = {"kept", "appended"}  # of Session itself
    folders = {query.parent.name for query in map(Path, map(str, query_files().values()))} - {"sql"}
    assert made and (made | set(re.findall(lent, sources)) | folders) - inside - said == set()


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    """A connection with everything that some query reads: frames, temporary tables, an attached atlas."""
    folder, rng = tmp_path_factory.mktemp("queries"), np.random.default_rng(0)
    raw, vectors = handmade.random_raw(rng, 6, 4), handmade.unit_vectors(rng, 6)
    store, old = (handmade.make_store(folder / name, [raw], vectors) for name in ("new.atlas", "old.atlas"))
    settings = {"sae_key": 0, "summary": "mean"}
    frames = {
        "wanted": {"topic_id": [0]},
        "numbered": {"topic_id": [0], "scoring_id": [0], "null_id": [None], "noise": [1e-5]},
        "shown": {"scoring_id": [0], "sae_key": [0], "neuron": [0], "g": [1.0]},
        "candidates": {"topic_id": [0], "neuron": [1]},
        "outputs": {"neuron": [1], "output": [0.5]},
        "counts": {"text_id": [0], "n_tokens": [3]},
        "samples": {"prompt_id": [0], "sample_0": [1]},
        "ranking": {"neuron": [0], "score": [0.5]},
        "random_powers": {"prompt_id": [0], "null_0": [1.0]},
        "orders": {"sample": [0], "prompt_id": [0], "place": [1]},
        "sizes": {"size": [2]},
        "wanted_scorings": {"topic": ["a"], "name": ["a"], "scoring_id": [0], "variant": ["a"], "format": ["a"]},
        "random_members": {"name": ["null_0"], "prompt_id": [1]},
        "left_out": {"prompt_id": [5]},
        "wanted_prompts": {"text_id": [0], "prompt_id": [1]},
    }
    topic = {"topic_id": [0], "text_id": [0], "text": ["a"], "vector": [vectors[0].tolist()]}
    beside = Store(store.path, allowed=[old.path])
    with beside.write() as session, contextlib.ExitStack() as stack:
        session.attach(old.path, "old")
        session.append("topic_texts", pl.DataFrame(topic))
        for name, columns in frames.items():
            stack.enter_context(session.frame(name, pl.DataFrame(columns)))
        make_distances(session, [0])
        session.run("empty_random_means")
        session.run("empty_raw_vectors")
        session.run("make_random_factors", **settings)
        session.run("make_factors", distance="cosine", power=1, **settings)
        session.run("pivot_factors")
        session.run("sum_distances", **settings)
        session.run("compute_scores", min_support=1, **settings)
        session.run("compute_stability", topic_id=0, distance="cosine", power=1, **settings)
        session._connection.execute("create temp table renumbered (old_id uinteger, new_id uinteger)")
        yield session._connection
        session._connection.rollback()
        session._connection.begin()


@pytest.mark.parametrize("name", [name for name in QUERIES if name not in (*DEFINITIONS, "pivot_factors")])
def test_every_query_fits_the_schema(connection, name):
    statements = duckdb.extract_statements(read_sql(name))
    assert statements
    for statement in statements:
        connection.execute("explain " + statement.query, dict.fromkeys(statement.named_parameters))


def test_a_script_ends_quietly(store):
    script = "import sys, polars, atlas; print(atlas.open(sys.argv[1]).sql('select 1 as one').item())"
    done = subprocess.run([sys.executable, "-c", script, str(store.path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("limit", ["plenty", "5", "5XB"])
def test_a_memory_limit_that_is_no_size_is_said(store, limit):
    with pytest.raises(StoreError, match="a memory limit is not a size .*: give one such as 1GB"):
        Store(store.path, memory_limit=limit).check()


def test_the_memory_limit_that_the_help_names_is_the_one_a_build_has():
    option = next(option for option in build.params if option.name == "memory_limit")
    assert option.default == STREAMING_LIMIT


def test_too_small_a_memory_limit_is_said(store):
    with (
        pytest.raises(
            StoreError, match=r"memory limit is too small for .*: raise memory_limit \(build: --memory-limit\)"
        ),
        Store(store.path, memory_limit="4MB").read() as session,
    ):
        session.sql("select count(*) from (select range from range(10000000) order by hash(range))")


def test_settings_of_a_moment_are_undone(store):
    with store.read() as session:
        shown = "select value from duckdb_settings() where name = 'perfect_ht_threshold'"
        before = session.sql(shown).item()
        with session.settings(perfect_ht_threshold="5"):
            assert session.sql(shown).item() == "5" != before
        assert session.sql(shown).item() == before
