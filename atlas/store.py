"""The atlas file: open it, ask it a query of sql/ by name, append frames, one transaction at a time.

A connection (atlas.database) lives for one operation: DuckDB lets either one writing process or several reading ones at a
file, so that nothing may be held while a model runs.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import re
import sys
import tempfile
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
import sqlalchemy
from sqlalchemy.exc import DBAPIError

from atlas.contents import read_definitions, read_sql, require_functions, require_table, require_tables
from atlas.database import NAME, SEARCH_PATH, Access, connect, quote
from atlas.errors import StoreError, shown
from atlas.querying import explain_error, read_batches, require_query, stoppable
from atlas.replacement import follow
from atlas.waiting import InUse, current_patience, keep_trying

if TYPE_CHECKING:
    import polars as pl

SCHEMA_VERSION = 2
MEMORY_LIMIT = "2GB"
STREAMING_LIMIT = "128MB"  # for what passes through DuckDB once: building, export, import
STREAMING_THREADS = min(4, os.cpu_count() or 1)  # each needs a share of it
MANIFEST = "manifest.json"  # of a folder that atlas.exchange wrote
SCANNING = {  # for the queries that read all activations of an SAE
    "disabled_optimizers": "join_filter_pushdown",  # every activation has its prompt: a filter would drop no row
    "perfect_ht_threshold": "17",  # bits: sums of up to 2 ** 17 neurons lie in an array, and are not looked up by a hash
}
FOREIGN = re.compile(r"\b(INTERVAL|UNION)\b")  # types of DuckDB that Polars cannot read
WORD = re.compile(r"\w+")
COMPOSED = re.compile(r"\bquery(_table)?\b", re.IGNORECASE)  # table functions whose text is made as a query runs
BROKEN = re.compile("[\ud800-\udfff]")  # half a surrogate pair: a byte of the command line that is no text, say
QUOTED = re.compile("""'[^']*'|"[^"]*\"""")
PARQUET = "read_parquet($path, hive_partitioning = false)"  # a folder named text=x above a file is no column of it


@atexit.register
def let_go() -> None:
    """DuckDB 2.0's binding prints, pages long, what is still referenced as a process ends; duckdb_engine refers to it."""
    engine = sys.modules.get("duckdb_engine")
    if engine is not None:
        vars(engine).clear()
        gc.collect()


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


def named_definitions(text: str) -> list[str]:
    """The views and macros of ours that a text may use, in the order in which they can be made."""
    statements = read_definitions()  # views first, for macros use them
    words = set(statements) if COMPOSED.search(text) else set(WORD.findall(text.lower()))
    used = words.union(*(WORD.findall(statements[name]) for name in statements if name in words))
    return [name for name in statements if name in used]


class Session:
    """One connection, one transaction. Frames come back as Polars frames.

    Views and macros are this program's, whatever the file has under their names: a session makes those it needs.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._defined: set[str] = set()

    def ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Rows of the named query in sql/; parameters are bound to its $names."""
        return self.sql(read_sql(name), **parameters)

    def sql(self, text: str, **parameters: Any) -> pl.DataFrame:
        """Rows of an SQL text; StoreError when it holds no query, or a column's type is one that Polars does not have."""
        import polars as pl

        self._define(text)
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
        """Rows of a text that may be anybody's: see atlas.querying."""
        require_query(self._connection, text)
        return stoppable(self._connection, lambda: self.sql(text))

    def batches(self, text: str, limit: int | None) -> Iterator[pl.DataFrame]:
        """The same, a batch at a time."""
        self._define(text)
        return read_batches(self._connection, text, limit=limit)

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run the named statements in sql/ that give no rows."""
        self._define(read_sql(name))
        self._execute(read_sql(name), _writable(parameters) or None)

    def _execute(self, text: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run statements that Ctrl-C may stop; their rows, of which there are few."""
        return stoppable(self._connection, lambda: self._connection.execute(text, parameters).fetchall())

    def _define(self, text: str) -> None:
        for name in named_definitions(text):
            if name not in self._defined:
                self._defined.add(name)
                self._execute(read_definitions()[name])

    def value(self, name: str, /, **parameters: Any) -> Any:
        """The first column of the first row of a named query; None when there is no row."""
        frame = self.ask(name, **parameters)
        return frame.item(0, 0) if frame.height else None

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
        with self.frame("appended", frame):
            self._execute(f'insert into "{table}" by name select * from appended')


class Scan(Protocol):
    """Runs a query of sql/ that reads the activations, and leaves its rows in the session: the one thing an engine does."""

    def __call__(self, session: Session, name: str, **parameters: Any) -> None: ...


def scan_here(session: Session, name: str, **parameters: Any) -> None:
    """Run the query in the session itself, on DuckDB."""
    with session.settings(**SCANNING):
        session.run(name, **parameters)


_found_ours: dict[tuple[Path, str], object] = {}  # (file, what of it was checked) -> its state then


def _state(path: Path) -> list[tuple[int, ...]]:
    """What changes when a file or its log does."""
    found = [Path(f"{path.resolve()}{end}") for end in ("", ".wal")]
    stats = [one.stat() for one in found if one.exists()]
    return [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


class Store:
    """An atlas file.

    Args:
        path: the file.
        memory_limit: what DuckDB may take, such as "2GB".
        threads: how many DuckDB may use; None for one per processor.
        allowed: files and folders that its sessions may reach beside it; every other is out of reach.
        own: whether this program has just made the file, so that its tables may be views and are not checked.
        patience: seconds to wait while another process has the file; None for what atlas.waiting says.

    Attributes:
        path: the file, as it was named.
        file: where that was, whatever the current folder becomes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        memory_limit: str = MEMORY_LIMIT,
        threads: int | None = None,
        allowed: Sequence[Path] = (),
        own: bool = False,
        patience: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.file = self.path.absolute()
        self.patience = patience
        self.memory_limit = memory_limit
        self.threads = threads
        self.allowed = tuple(allowed)
        self.own = own

    def create(self) -> None:
        """Make an empty atlas; its schema is there after one transaction or not at all."""
        with self._transaction(read_only=False) as session:
            session.create_tables()

    def check(self) -> None:
        """Raise StoreError unless the file is an atlas of this schema version."""
        with self.read():
            pass

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only session. Like every session it can touch neither other files nor the network.

        Raises:
            StoreError: there is no such file, it is not an atlas, or one of another schema version.
        """
        self._require_file()
        with self._transaction(read_only=True) as session:
            self._require_atlas(session)
            yield session

    def query(self, text: str) -> pl.DataFrame:
        """Rows of a user's SQL in a read-only session; StoreError for what is wrong with it. Ctrl-C stops it."""
        with self.read() as session, self._own_words():
            self._require_functions(session)
            return session.query(text)

    @contextmanager
    def stream(self, text: str, *, limit: int | None = None) -> Iterator[Iterator[pl.DataFrame]]:
        """The same rows in frames of some thousand, types that Polars lacks as texts; `limit` says how many at most."""
        with self.read() as session, closing(self._batches(session, text, limit)) as batches:
            self._require_functions(session)
            yield batches

    def _batches(self, session: Session, text: str, limit: int | None) -> Generator[pl.DataFrame]:
        with self._own_words():
            yield from session.batches(text, limit)

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        """Errors of a user's SQL are said as DuckDB says them."""
        try:
            yield
        except Exception as error:
            known = explain_error(error, self.memory_limit)
            if known is None:
                raise
            raise known from error

    @contextmanager
    def write(self, *, threads: int | None = None) -> Iterator[Session]:
        """A session whose changes are all kept, or, after an error, all dropped."""
        self._require_file()
        with self._transaction(read_only=False, threads=threads) as session:
            self._require_atlas(session)
            self._require_functions(session)
            yield session
        _found_ours.update({(self.path.resolve(), what): _state(self.path) for what in ("tables", "functions")})

    def exists(self) -> bool:
        """Whether something is there; StoreError for a name that cannot be one."""
        try:
            os.fsencode(self.file).decode()  # DuckDB takes names in UTF-8 only
            return self.file.exists()
        except UnicodeDecodeError as error:
            raise StoreError(f"{str(self.path)!r} is not UTF-8: rename the file or its folder") from error
        except OSError as error:
            raise StoreError(f"{shown(self.path)} cannot be opened ({error.strerror}): name another file") from error

    def _require_file(self) -> None:
        if not self.exists():
            raise StoreError(f"no atlas at {self.path}: build one with `atlas build {self.path} PROMPTS ...`")
        if (self.file / MANIFEST).exists():
            raise StoreError(
                f"{self.path} is an export: make an atlas of it with `atlas import`, or ask it on --engine spark"
            )
        if self.file.is_dir():
            raise StoreError(f"{self.path} is a folder: name an atlas file in it")

    def _require_atlas(self, session: Session) -> None:
        """Nothing of the file runs before its catalog was looked at: its table `atlas` may be a view."""
        with self._once("tables") as needed:
            things = session.ask("catalog").rows() if needed and not self.own else None
            if things is not None:
                require_table(self.path, things, "atlas", "schema_version")
            version = session.value("schema_version")
            if version is not None and version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema version {shown(version)}, this program reads version {SCHEMA_VERSION}: "
                    "build it again, or install the version of atlas that made it"
                )
            if things is not None:
                require_tables(self.path, things)

    def _require_functions(self, session: Session) -> None:
        """For sessions that write or run a user's SQL; others call no function by a name that only a file has."""
        with self._once("functions") as needed:
            if needed and not self.own:
                require_functions(self.path, session.ask("functions").iter_rows())

    @contextmanager
    def _once(self, what: str) -> Iterator[bool]:
        """Whether the file is to be checked; it is not when it is as it was when this process checked it last."""
        key, state = (self.path.resolve(), what), _state(self.path)
        yield _found_ours.get(key) != state
        _found_ours[key] = state

    def checkpoint(self) -> None:
        """Move what a killed process left in the write-ahead log into the file."""
        with self._connect(read_only=False) as connection:
            raw: Any = connection.connection.driver_connection  # SQLAlchemy would begin a transaction
            raw.execute(f"checkpoint {NAME}")

    @contextmanager
    def _transaction(self, *, read_only: bool, threads: int | None = None) -> Iterator[Session]:
        with self._connect(read_only=read_only, threads=threads) as connection, connection.begin():
            yield Session(connection.connection.driver_connection)

    @contextmanager
    def _connect(self, *, read_only: bool, threads: int | None = None) -> Iterator[sqlalchemy.Connection]:
        allowed = tuple(way for path in self.allowed for way in {path.absolute(), path.resolve()})
        require_plain_name(self.file)
        access = Access(follow(self.file), read_only, self.memory_limit, threads or self.threads, allowed)
        patience = current_patience() if self.patience is None else self.patience
        with ExitStack() as stack:

            def attempt() -> sqlalchemy.Connection:
                with explained(self.path):
                    return stack.enter_context(connect(access))

            connection = keep_trying(attempt, patience)
            with explained(self.path):
                yield connection


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say in one line what a user can put right of the database's errors; a query that a signal stopped is Ctrl-C."""
    try:
        yield
    except (duckdb.Error, DBAPIError, OSError, RuntimeError) as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        known = translate(error, path)
        if known is None:
            raise
        raise known from error


def is_interrupt(error: BaseException) -> bool:
    """Whether this is how DuckDB says that a signal has stopped its query."""
    cause = getattr(error, "orig", None) or error
    return isinstance(cause, duckdb.InterruptException | RuntimeError) and "interrupted" in str(cause).lower()


def translate(error: BaseException, path: Path) -> StoreError | None:
    """A database error that a user can put right in one line: the thing, the value, the next step; None for a bug.

    Errors are told apart by their class, and by what the system says (os.strerror); the file's name is no part of that.
    """
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    if isinstance(cause, OSError):
        return _full(path) if cause.errno in FULL else None
    if type(cause).__name__ == "ResourceInUseException" or "Unique file handle conflict" in text:
        return StoreError(f"this program holds {path} open: close your DuckDB connection first (con.close())")
    if isinstance(cause, duckdb.PermissionException):
        return StoreError(f"{path} wants to read other files: it is not an atlas that you should trust")
    if isinstance(cause, duckdb.OutOfMemoryException):
        return StoreError(f"DuckDB's memory limit is too small for {path}: raise memory_limit (build: --memory-limit)")
    if re.search(r"\bmemory\b.* must have|unit for memory", text, re.IGNORECASE):
        return StoreError(f"a memory limit is not a size ({text}): give one such as 1GB")
    uncommitted = isinstance(cause, duckdb.TransactionException) and "Failed to commit" in text
    if isinstance(cause, duckdb.IOException) or uncommitted:
        return _translate_io(text.replace(str(path.resolve()), "").replace(str(path), ""), path)
    broken = duckdb.SerializationException | duckdb.FatalException | duckdb.InternalException
    if isinstance(cause, broken) or type(cause) is duckdb.Error:  # a checksum that does not fit has the bare class
        return _damage(path)
    return None


FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def _translate_io(text: str, path: Path) -> StoreError:
    if "Could not set lock" in text:
        holder = re.search(r"held in (.*?PID \d+\))", text)
        who = holder.group(1) if holder else "another program"
        return InUse(f"{path} is in use by {who}: wait until it has finished, or stop it")
    if any(os.strerror(number) in text for number in FULL):
        return _full(path)
    if os.strerror(errno.ENOENT) in text:
        return StoreError(f"no such folder {path.parent}: make it first, or choose another")
    if os.strerror(errno.EACCES) in text or os.strerror(errno.EROFS) in text or "read-only mode" in text:
        return StoreError(f"{path} cannot be opened or written: choose another folder or mend its permissions")
    if re.search(r"version number \d+, but we can only read", text):
        return StoreError(f"{path} was written by another version of DuckDB, or is damaged: pip install -U duckdb")
    return _damage(path)


def _full(path: Path) -> StoreError:
    return StoreError(f"the disk is full while writing {path}: free some space and run the same command again")


def _damage(path: Path) -> StoreError:
    return StoreError(f"{path} is not an atlas, or is damaged: name another file, or build it again")


def require_plain_name(path: Path) -> None:
    """Raise StoreError for a name that DuckDB does not take for the name of a file."""
    if "?" in str(follow(path)):
        raise StoreError(f"{path} has a question mark in its name or folder, and DuckDB keeps no log there: rename it")


def require_writable(path: Path) -> None:
    """Raise StoreError when a file cannot be made at `path`, or where that leads to."""
    require_plain_name(path)
    folder = follow(path).parent
    if not folder.is_dir():
        raise StoreError(f"no such folder {folder}: make it first, or choose another")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose another folder") from error
