"""One connection and one transaction: ask a query of sql/ by its name, append frames, read and write Parquet."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from atlas.errors import StoreError, shown
from atlas.store.contents import our_tables, read_definitions, read_sql, read_statement, read_table
from atlas.store.database import NAME, SEARCH_PATH, quote
from atlas.store.failures import translate
from atlas.store.querying import PATIENCE, read_batches, require_query, stoppable

if TYPE_CHECKING:
    import polars as pl

SCANNING = {  # for the queries that read all activations of an SAE
    "disabled_optimizers": "join_filter_pushdown",  # every activation has its prompt: a filter would drop no row
    "perfect_ht_threshold": "17",  # bits: sums of up to 2 ** 17 neurons lie in an array, and are not looked up by a hash
}
FOREIGN = re.compile(r"\b(INTERVAL|UNION)\b")  # types of DuckDB that Polars cannot read
WORD = re.compile(r"\w+")
COMMENT = re.compile("--.*")  # in our own texts, which have none inside of quotes
COMPOSED = re.compile(r"\bquery(_table)?\b", re.IGNORECASE)  # table functions whose text is made as a query runs
BROKEN = re.compile("[\ud800-\udfff]")  # half a surrogate pair: a byte of the command line that is no text, say
QUOTED = re.compile("""'[^']*'|"[^"]*\"""")
PARQUET = "read_parquet($path, hive_partitioning = false)"  # a folder named text=x above a file is no column of it


def now() -> datetime:
    """The time in UTC, as DuckDB's timestamps have it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _writable(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a statement; StoreError for a text that cannot be written as UTF-8."""
    for value in parameters.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii() and BROKEN.search(text):
                raise StoreError(f"{shown(text)} holds a character that no UTF-8 text has: mend it")
    return parameters


def _damaged(path: str, error: duckdb.Error) -> StoreError:
    return StoreError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): copy the export again")


@cache
def own_definitions(name: str) -> list[str]:
    """The views and macros that the named text in sql/ uses: what its comments say is not used."""
    return named_definitions(COMMENT.sub("", read_sql(name)), composed=False)


def named_definitions(text: str, *, composed: bool = True) -> list[str]:
    """The views and macros of ours that a text may use, in the order in which they can be made.

    Args:
        text: SQL.
        composed: whether a text that DuckDB puts together as a query runs may use any of them.
    """
    statements = read_definitions()  # views first, for macros use them
    words = set(statements) if composed and COMPOSED.search(text) else set(WORD.findall(text.lower()))
    used = words.union(*(WORD.findall(statements[name]) for name in statements if name in words))
    return [name for name in statements if name in used]


class Version:
    """An atlas file as this process found it: after another process wrote to it, it is another version."""


class Asks(Protocol):
    """What asks questions and changes nothing: a session of an atlas file, or of an export on Spark.

    Attributes:
        version: of the file; None where that is not known.
    """

    version: Version | None

    def sql(self, text: str, **parameters: Any) -> pl.DataFrame:
        """Rows of an SQL text."""

    def ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Rows of the named query in sql/; parameters are bound to its $names."""

    def rows(self, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named query that gives few."""

    def value(self, name: str, /, **parameters: Any) -> Any:
        """The first column of the first row of a named query; None when there is no row."""


class Session:
    """One connection, one transaction. Frames come back as Polars frames.

    Views and macros are this program's, whatever the file has under their names: a session makes those it needs.
    """

    def __init__(self, connection: Any) -> None:
        self.version: Version | None = None
        self._connection = connection
        self._defined: set[str] = set()

    def ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Rows of the named query in sql/; parameters are bound to its $names."""
        self._define(own_definitions(name))
        return self._rows(read_sql(name), parameters)

    def sql(self, text: str, **parameters: Any) -> pl.DataFrame:
        """Rows of an SQL text; StoreError when it holds no query, or a column's type is one that Polars does not have."""
        self._define(named_definitions(text))
        return self._rows(text, parameters)

    def _rows(self, text: str, parameters: dict[str, Any]) -> pl.DataFrame:
        import polars as pl

        found = self._connection.sql(text, params=_writable(parameters))
        if found is None:
            raise StoreError("the SQL text holds no query: give one, such as 'from atlas'")
        for name, kind in zip(found.columns, found.types, strict=True):
            if FOREIGN.search(QUOTED.sub("", str(kind))):
                raise StoreError(
                    f"column {name} is of type {kind}, which Polars does not have: cast it, as in x::varchar"
                )
        run = getattr(found, "materialize", None) or found.execute  # its name before DuckDB 2
        rows = stoppable(self._connection, run)
        # found.pl() needs PyArrow, whose import takes a quarter of a short command. The rows go over in a plain object, for
        # Polars remembers the types it is given, and DuckDB's would live on.
        return pl.DataFrame(SimpleNamespace(__arrow_c_stream__=rows.__arrow_c_stream__))

    def query(self, text: str) -> pl.DataFrame:
        """Rows of a text that may be anybody's: see atlas.store.querying."""
        require_query(self._connection, text)
        return stoppable(self._connection, lambda: self.sql(text))

    def batches(self, text: str, limit: int | None) -> Iterator[pl.DataFrame]:
        """The same, a batch at a time."""
        self._define(named_definitions(text))
        return read_batches(self._connection, text, limit=limit)

    @contextmanager
    def stopping(self, stopped: Callable[[], bool] | None) -> Iterator[None]:
        """Interrupt what DuckDB does as soon as `stopped` says so; None for never."""
        if stopped is None:
            yield
            return
        over = threading.Event()

        def watch() -> None:
            while not over.wait(PATIENCE):
                if stopped():
                    self._connection.interrupt()  # again and again: one between two steps is not noticed

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run the named statements in sql/ that give no rows; each is given the parameters that it names."""
        text = read_sql(name)
        self._define(own_definitions(name))
        statements = self._connection.extract_statements(text)  # DuckDB binds parameters in the last of a text alone
        named = set[str]().union(*(statement.named_parameters for statement in statements))
        if named != parameters.keys():
            raise TypeError(f"{name} takes the parameters {sorted(named)}, not {sorted(parameters)}")
        for statement in statements:
            bound = {key: parameters[key] for key in statement.named_parameters}
            self._execute(statement, _writable(bound) or None)

    def _execute(self, text: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run statements that Ctrl-C may stop; their rows, of which there are few."""
        return stoppable(self._connection, lambda: self._connection.execute(text, parameters).fetchall())

    def _define(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._defined:
                self._defined.add(name)
                self._execute(read_definitions()[name])

    def rows(self, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named query that gives few, as plain values: a frame costs more than most such queries."""
        self._define(own_definitions(name))
        text, given = read_sql(name), _writable(parameters) or None

        def fetch() -> list[dict[str, Any]]:
            found = self._connection.execute(text, given)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        return stoppable(self._connection, fetch)

    def value(self, name: str, /, **parameters: Any) -> Any:
        """The first column of the first row of a named query; None when there is no row."""
        found = self.rows(name, **parameters)
        return next(iter(found[0].values())) if found else None

    def next_id(self, column: str) -> int:
        """The next free id of the kind that is kept in this column, such as run_id."""
        [(found,)] = self._execute(read_statement("next_ids", column))
        return int(found)

    @contextmanager
    def frame(self, name: str, frame: pl.DataFrame) -> Iterator[None]:
        """Let queries read a frame as the table `name`."""
        self._connection.register(name, frame.to_arrow())
        yield
        self._connection.unregister(name)  # after an error the connection is closed, and cannot do it any more

    def attach(self, path: Path, name: str) -> None:
        """Let this session read another atlas file as the database `name`."""
        self._execute(f"attach {quote(path.resolve())} as {name} (read_only)")

    def write_parquet(self, text: str, path: Path, *, group: int = 122_880, **parameters: Any) -> int:
        """Write the rows of an SQL text into a Parquet file, in their order and in groups of so many; how many there were."""
        statement = (
            f"copy ({text}) to {quote(path.absolute())} (format parquet, compression zstd, row_group_size {group})"
        )
        try:
            [(rows,)] = self._execute(statement, parameters or None)
        except duckdb.IOException as error:
            raise translate(error, path) or error from error
        return int(rows)

    def read_parquet(self, table: str, path: str, **constants: int) -> None:
        """Append the rows of a Parquet file to a table, in their order; StoreError unless it has the table's columns.

        Args:
            table: the table.
            path: the file.
            constants: columns of the table that the file leaves out, and their value in all its rows.
        """
        try:
            self._require_columns(table, path, constants)
            listed = "".join(f', ${name} as "{name}"' for name in constants)
            self._execute(f'insert into "{table}" by name select *{listed} from {PARQUET}', {"path": path, **constants})
        except duckdb.Error as error:
            raise translate(error, Path(path)) or _damaged(path, error) from error

    def _require_columns(self, table: str, path: str, left_out: Collection[str]) -> None:
        wanted = self._connection.sql(f'select * from "{table}" limit 0')
        kinds = {
            name: str(kind) for name, kind in zip(wanted.columns, wanted.types, strict=True) if name not in left_out
        }
        found = self._connection.sql(f"select * from {PARQUET} limit 0", params={"path": path})
        given = dict(zip(found.columns, map(str, found.types), strict=True))
        if given == kinds:
            return
        odd = sorted(set(given.items()) ^ set(kinds.items()))[0][0]
        raise StoreError(
            f"{path}: column {shown(odd)} is {given.get(odd, 'not there')} and should be {kinds.get(odd, 'not there')}: "
            "copy the export again"
        )

    def parquet_rows(self, path: str) -> int:
        """How many rows a Parquet file's footer says; StoreError when it is no Parquet file or was cut."""
        try:
            return int(self.sql("select sum(num_rows) from parquet_file_metadata($path)", path=path).item() or 0)
        except duckdb.Error as error:
            raise _damaged(path, error) from error

    def view_parquet(self, table: str, parts: Sequence[tuple[Sequence[str], dict[str, int]]]) -> None:
        """Let Parquet files stand where an empty table does.

        Args:
            table: the table.
            parts: files and their constants, as `read_parquet` takes them.
        """
        columns = self._connection.sql(f'select * from "{table}" limit 0')
        selects = []
        for paths, constants in parts:
            for path in paths:
                self._require_columns(table, path, constants)
            names = [
                f'{constants[name]}::{kind} as "{name}"' if name in constants else f'"{name}"'
                for name, kind in zip(columns.columns, columns.types, strict=True)
            ]
            listed = ", ".join(map(quote, paths))
            selects.append(f"select {', '.join(names)} from read_parquet([{listed}], hive_partitioning = false)")
        self._execute(f'drop table {NAME}.main."{table}"')
        self._execute(f'create view {NAME}.main."{table}" as {" union all ".join(selects)}')

    def create_tables(self) -> None:
        """Make the tables, views and macros of an atlas in an empty file."""
        self._execute(f"use {NAME}")
        for name in ("schema", "views", "macros"):
            self._execute(read_sql(name))

    def stand_in(self, tables: Iterable[str]) -> None:
        """Let tables that an older file lacks be there for this session, empty."""
        for name in tables:
            self._execute(our_tables()[name].replace("CREATE TABLE", "create or replace temp table", 1))

    def add_tables(self, tables: Iterable[str]) -> None:
        """Give a file that an older version made tables that it lacks, and the views and macros that use them."""
        self._execute(f"use {NAME}")
        for name in tables:
            self._execute(f"drop table temp.{name}")  # which stood in
            self._execute(read_table(name))
        for name in ("views", "macros"):
            self._execute(read_sql(name))
        self._execute(f"set search_path = {quote(SEARCH_PATH)}")

    def renew_views(self) -> None:
        """Give a file that an older version made the views of this one."""
        self._execute(f"use {NAME}")
        self._execute(read_sql("views"))
        self._execute(f"set search_path = {quote(SEARCH_PATH)}")

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Other settings of DuckDB for a moment."""
        for name, value in values.items():
            self._execute(f"set {name} = '{value}'")
        yield
        for name in values:  # after an error the connection is closed
            self._execute(f"reset {name}")

    def keep(self, name: str, frame: pl.DataFrame) -> None:
        """Make a frame the temporary table `name`, in the place of an earlier one."""
        with self.frame("kept", frame):
            self._execute(f'create or replace temp table "{name}" as select * from kept')

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Append a frame to a table, by column name; missing columns become null."""
        if frame.height == 1 and not any(kind.is_nested() for kind in frame.dtypes):
            self._append_row(table, frame.row(0, named=True))
            return
        with self.frame("appended", frame):
            self._execute(f'insert into "{table}" by name select * from appended')

    def _append_row(self, table: str, row: dict[str, Any]) -> None:
        """Append one row: to say it costs a quarter of what it costs to lend a frame."""
        names = ", ".join(f'"{name}"' for name in row)
        self._execute(
            f'insert into "{table}" ({names}) values ({", ".join("?" * len(row))})', list(_writable(row).values())
        )


class Scan(Protocol):
    """Runs a query of sql/ that reads the activations, and leaves its rows in the session: the one thing an engine does."""

    def __call__(self, session: Session, name: str, **parameters: Any) -> None:
        """See the class."""


def scan_here(session: Session, name: str, **parameters: Any) -> None:
    """Run the query in the session itself, on DuckDB."""
    with session.settings(**SCANNING):
        session.run(name, **parameters)
