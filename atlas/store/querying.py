"""A user's SQL: one that only reads, that Ctrl-C stops, and whose rows come a batch at a time.

DuckDB does not notice Ctrl-C by itself: it runs in a thread, so that the main one can listen and interrupt it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import duckdb

from atlas.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
BATCH = 10_000  # rows in memory at a time
LISTEN = 0.1  # seconds between two looks at whether Ctrl-C was pressed
PATIENCE = 0.05  # seconds between two interrupts: one that comes between two steps of DuckDB is not noticed
SAMPLE = "give a query, such as 'from atlas'"
PLACE = re.compile(r"\n\nLINE \d+:.*", re.DOTALL)  # the text again, with a mark under the place
COMMENT = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
EXPLAIN = re.compile(
    rf"{COMMENT}explain\b{COMMENT}(?:analyze\b)?{COMMENT}(?:\([^)]*\))?(.*)", re.DOTALL | re.IGNORECASE
)
PIVOT = re.compile(rf"{COMMENT}(?:pivot|pivot_wider|from|select|with)\b", re.DOTALL | re.IGNORECASE)
AS_THEY_ARE = {  # types that Polars has with all their values
    "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint",
    "float", "double", "decimal", "varchar", "blob", "null",
}  # fmt: skip


def read_batches(connection: Any, text: str, *, limit: int | None = None) -> Iterator[pl.DataFrame]:
    """The rows of a query in frames of some thousand, one at least, whatever the types of the columns.

    Args:
        connection: DuckDB's.
        text: the query.
        limit: how many rows at most; None for all.
    """
    import polars as pl

    require_query(connection, text)
    relation = stoppable(connection, lambda: connection.sql(text))
    names, kinds = unique(relation.columns), relation.types
    if limit is not None:
        relation = relation.limit(limit)
    listed = ", ".join(f"{cast(f'#{at}', kind)} as c{at}" for at, kind in enumerate(kinds, start=1))
    reader = stoppable(connection, lambda: relation.project(listed).to_arrow_reader(BATCH))
    large = [f"c{at}" for at, kind in enumerate(kinds, start=1) if str(kind) == "HUGEINT"]
    try:
        batch = stoppable(connection, lambda: next(reader, None)) or reader.schema.empty_table()
        while batch is not None:
            frame = pl.DataFrame(pl.from_arrow(batch)).with_columns(pl.col(large).cast(pl.Int128))
            frame.columns = names
            yield frame
            batch = stoppable(connection, lambda: next(reader, None))
    finally:
        reader.close()  # a connection with an open result takes no other statement, not even the end of a transaction


def cast(column: str, kind: Any) -> str:
    """A column as a type that Polars has: what it lacks (intervals, unions, years after 9999 ...) becomes a text."""
    plain = plain_type(kind)
    return column if plain == str(kind) else f"cast({column} as {plain})"


def plain_type(kind: Any) -> str:
    """A type of DuckDB with texts in the place of those that Polars lacks."""
    if kind.id in ("list", "array"):
        inner = dict(kind.children)
        return f"{plain_type(inner['child'])}[{inner.get('size', '')}]"
    if kind.id == "struct":
        fields = ", ".join(f"{quoted(name)} {plain_type(child)}" for name, child in kind.children)
        return f"struct({fields})"
    if kind.id == "map":
        inner = dict(kind.children)
        return f"map({plain_type(inner['key'])}, {plain_type(inner['value'])})"
    return str(kind) if kind.id in AS_THEY_ARE and str(kind) != "JSON" else "varchar"


def quoted(name: str) -> str:
    """A name as SQL takes any."""
    return '"' + name.replace('"', '""') + '"'


def unique(names: list[str]) -> list[str]:
    """Column names, a number behind those that were there before: a JSON object has every key once."""
    made: dict[str, None] = {}
    for name in names:
        other, count = name, 1
        while other in made:
            other, count = f"{name}_{count}", count + 1
        made[other] = None
    return list(made)


def require_query(connection: Any, text: str) -> None:
    """Raise StoreError unless a text holds queries and nothing else, before any of it runs."""
    try:
        text.encode()
    except UnicodeError as error:
        raise StoreError(f"the SQL text holds a character that no UTF-8 text has: {SAMPLE}") from error
    statements = connection.extract_statements(text)
    if not statements:
        raise StoreError("the SQL text holds no query: give one, such as 'from atlas'")
    for statement in statements:
        if not _only_reads(connection, statement):
            raise StoreError(f"SQL error: {_kind(statement)} is no query, and only queries run here: {SAMPLE}")


def _kind(statement: Any) -> str:
    try:
        return str(statement.type.name)
    except ValueError:  # one that DuckDB's binding has no name for
        return "this"


def _only_reads(connection: Any, statement: Any) -> bool:
    kind = _kind(statement)
    if kind == "EXPLAIN":  # EXPLAIN ANALYZE runs what it explains
        explained = EXPLAIN.match(statement.query)
        inner = connection.extract_statements(explained[1]) if explained else []
        return bool(inner) and all(_kind(one) != "EXPLAIN" and _only_reads(connection, one) for one in inner)
    return kind == "SELECT" or (kind == "MULTI" and PIVOT.match(statement.query) is not None)


def stoppable(connection: Any, work: Callable[[], T]) -> T:
    """The result of what DuckDB does; on Ctrl-C it is interrupted, and KeyboardInterrupt raised when it has stopped."""
    if threading.current_thread() is not threading.main_thread():
        return work()  # Python tells the main thread alone of Ctrl-C
    result = _Worker.idle().begin(work)
    try:
        while not result.done():
            wait([result], LISTEN)  # not for ever: a signal that another thread was given wakes nobody up
        return result.result()
    except KeyboardInterrupt:
        while not result.done():  # Thread.join would take an interrupted thread for an ended one
            with contextlib.suppress(KeyboardInterrupt):  # of an impatient user: the connection is in use still
                connection.interrupt()
                wait([result], PATIENCE)
        raise


class _Worker:
    """A thread that does one thing after another: to begin one takes several times as long as most statements do."""

    waiting: ClassVar[list[_Worker]] = []

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="atlas-duckdb").start()

    @classmethod
    def idle(cls) -> _Worker:
        """One that has nothing to do."""
        try:
            return cls.waiting.pop()
        except IndexError:
            return cls()

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Begin something; its result."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                found = work()
            except BaseException as error:
                self.waiting.append(self)
                result.set_exception(error)
            else:
                self.waiting.append(self)
                result.set_result(found)

        self._jobs.put(run)
        return result

    def _work(self) -> None:
        while True:
            self._jobs.get()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Worker.waiting.clear)  # their threads are not there


def explain_error(error: Exception, memory_limit: str) -> StoreError | None:
    """What is wrong with a user's SQL, in one line; None for what does not come from DuckDB."""
    if isinstance(error, duckdb.OutOfMemoryException) or str(error).startswith("Out of Memory Error"):
        return StoreError(
            f"the query needs more than {memory_limit} of memory and the disk it may use: ask for fewer rows or columns at "
            "a time, or raise --memory-limit (in Python: atlas.open(..., memory_limit=...))"
        )
    if isinstance(error, duckdb.Error | OSError) or type(error).__module__.startswith(
        "pyarrow"
    ):  # a batch's are Arrow's
        return StoreError(f"SQL error: {' '.join(PLACE.sub('', str(error)).split())}")
    return None
