"""An instance of DuckDB is kept for its file's next session, and never when something could be left in it."""

from __future__ import annotations

import duckdb
import handmade
import numpy as np
import pytest

from atlas.store import database

RNG = np.random.default_rng(0)


@pytest.fixture
def made(monkeypatch):
    """How many instances were made since the test began."""
    count = []
    real = database._open
    monkeypatch.setattr(database, "_open", lambda *args: count.append(1) or real(*args))
    return count


def new_store(path):
    return handmade.make_store(path, [handmade.random_raw(RNG, 20, 4)], handmade.unit_vectors(RNG, 20))


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path / "x.atlas")


def prompts(store):
    with store.read() as session:
        return session.ask("atlas_size").item(0, "prompts")


def test_sessions_that_follow_each_other_share_an_instance_and_the_file_is_free_between_them(store, made):
    prompts(store)
    made.clear()
    assert [prompts(store), prompts(store)] == [20, 20]
    assert made == []
    with duckdb.connect(str(store.path)) as connection:  # its own configuration, and nobody else has the file
        connection.execute("insert into topics values (7, 'seven', null)")
    with store.read() as session:
        assert session.sql("select name from topics where topic_id = 7").item() == "seven"
    assert made == []


def test_what_a_session_leaves_is_not_there_for_the_next(store):
    with store.read_file() as session:
        session._execute("create temp table left_over as select 1 as a")
    with store.read_file() as session, pytest.raises(duckdb.CatalogException):
        session.sql("from left_over")


@pytest.mark.parametrize("use", ["query", "error", "fork"])
def test_an_instance_is_not_kept_after_anybodys_sql_after_an_error_and_in_a_fork(store, made, use):
    prompts(store)
    made.clear()
    if use == "query":
        store.query("select 1")
    elif use == "error":
        with pytest.raises(ZeroDivisionError), store.read():
            raise ZeroDivisionError
    else:
        database._forget_kept()  # what os.fork calls in the child
    made.clear()
    assert prompts(store) == 20
    assert made == [1]


def test_few_instances_are_kept_and_none_for_long(tmp_path, made, monkeypatch):
    stores = [new_store(tmp_path / f"{number}.atlas") for number in range(database.KEPT + 2)]
    for store in stores:
        prompts(store)
    assert len(database._kept) == database.KEPT
    made.clear()
    prompts(stores[-1])
    assert made == []
    monkeypatch.setattr(database, "KEPT_FOR", -1.0)
    prompts(stores[-1])
    assert made == [1]


def test_a_file_that_was_replaced_meanwhile_is_the_one_that_is_read(store, tmp_path):
    assert prompts(store) == 20
    other = handmade.make_store(tmp_path / "y.atlas", [handmade.random_raw(RNG, 9, 4)], handmade.unit_vectors(RNG, 9))
    other.path.replace(store.path)
    assert prompts(store) == 9


def test_a_change_leaves_no_log_beside_the_file(store):
    with store.write() as session:
        session._execute("update topics set name = name")
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]
