"""The atlas file: open it, ask it a query of sql/ by name, append frames, one transaction at a time.

A connection (atlas.store.database) lives for one operation: DuckDB lets either one writing process or several reading ones at a
file, so that nothing may be held while a model runs.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from atlas.errors import StoreError, shown
from atlas.store.contents import require_functions, require_sound, require_table, require_tables
from atlas.store.database import NAME, Access, connect
from atlas.store.failures import explained
from atlas.store.querying import explain_error
from atlas.store.replacement import follow
from atlas.store.session import Asks, Session, Version
from atlas.store.waiting import current_patience, keep_trying

if TYPE_CHECKING:
    import polars as pl

SCHEMA_VERSION = 2
MEMORY_LIMIT = "2GB"
STREAMING_LIMIT = "128MB"  # for what passes through DuckDB once: building, export, import
STREAMING_THREADS = min(4, os.cpu_count() or 1)  # each needs a share of it
MANIFEST = "manifest.json"  # of a folder that atlas.store.exchange wrote


@atexit.register
def let_go() -> None:
    """Drop what duckdb_engine refers to: DuckDB 2.0 prints pages about every object that is still there as a process ends."""
    engine = sys.modules.get("duckdb_engine")
    if engine is not None:
        vars(engine).clear()
        gc.collect()


_found_ours: dict[tuple[Path, str], object] = {}  # (file, what of it was checked) -> its state then
_lacking: dict[Path, frozenset[str]] = {}  # file -> tables that it is too old to have
_versions: dict[Path, Version] = {}  # file -> what it was when it was looked at last


def _state(place: Path) -> list[tuple[int, int, int, int]]:
    """What changes when a file or its log does."""
    found = []
    for end in ("", ".wal"):
        with suppress(FileNotFoundError):
            stat = Path(f"{place}{end}").stat()
            found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


class Store:
    """An atlas file.

    Args:
        path: the file.
        memory_limit: what DuckDB may take, such as "2GB".
        threads: how many DuckDB may use; None for one per processor.
        allowed: files and folders that its sessions may reach beside it; every other is out of reach.
        own: whether this program has just made the file, so that its tables may be views and are not checked.
        patience: seconds to wait while another process has the file; None for what atlas.store.waiting says.
        read_only: whether nothing may be written to the file.

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
        read_only: bool = False,
    ) -> None:
        self.path = Path(path)
        self.read_only = read_only
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
    def read(self) -> Iterator[Asks]:
        """A read-only session. Like every session it can touch neither other files nor the network.

        Raises:
            StoreError: there is no such file, it is not an atlas, or one of another schema version.
        """
        with self.read_file() as session:
            yield session

    @contextmanager
    def read_file(self, *, spoils: bool = False) -> Iterator[Session]:
        """The same of the file itself, on DuckDB: it can write Parquet, and read frames and a user's SQL.

        Args:
            spoils: whether it is for a user's SQL, of which no later session must meet a trace.
        """
        self._require_file()
        with self._transaction(read_only=True, spoils=spoils) as session:
            self._require_atlas(session)
            yield session

    def query(self, text: str) -> pl.DataFrame:
        """Rows of a user's SQL in a read-only session; StoreError for what is wrong with it. Ctrl-C stops it."""
        with self.read_file(spoils=True) as session, self._own_words():
            self._require_functions(session)
            return session.query(text)

    @contextmanager
    def stream(
        self, text: str, *, limit: int | None = None, stopped: Callable[[], bool] | None = None
    ) -> Iterator[Iterator[pl.DataFrame]]:
        """The same rows in frames of some thousand, types that Polars lacks as texts.

        Args:
            text: the SQL.
            limit: how many rows at most; None for all.
            stopped: asked again and again, in another thread, whether DuckDB is to stop, with a StoreError; None for never.
        """
        with (
            self.read_file(spoils=True) as session,
            session.stopping(stopped),
            closing(self._batches(session, text, limit)) as batches,
        ):
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
        """A session whose changes are all kept, or, after an error, all dropped; StoreError where nothing may be written."""
        if self.read_only:
            raise StoreError(
                f"{self.path} was opened read-only, and this would be stored in it: open it without --read-only"
            )
        self._require_file()
        with self._transaction(read_only=False, threads=threads) as session:
            self._require_atlas(session)
            self._require_functions(session)
            if lacking := self._lacks():
                session.add_tables(lacking)
            yield session
        place = follow(self.file)
        _lacking.pop(place, None)
        _found_ours.update(dict.fromkeys([(place, "tables"), (place, "functions")], _state(place)))

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
                _lacking[follow(self.file)] = require_tables(self.path, things)
            session.stand_in(self._lacks())
            if things is not None:
                require_sound(self.path, session.ask("faults").rows())
            if needed:
                _versions[follow(self.file)] = Version()
            session.version = _versions[follow(self.file)]

    def _lacks(self) -> frozenset[str]:
        """The tables that the file is too old to have, as it was looked at last."""
        return _lacking.get(follow(self.file), frozenset())

    def _require_functions(self, session: Session) -> None:
        """For sessions that write or run a user's SQL; others call no function by a name that only a file has."""
        with self._once("functions") as needed:
            if needed and not self.own:
                require_functions(self.path, session.ask("functions").iter_rows())

    @contextmanager
    def _once(self, what: str) -> Iterator[bool]:
        """Whether the file is to be checked; it is not when it is as it was when this process checked it last."""
        place = follow(self.file)
        key, state = (place, what), _state(place)
        yield _found_ours.get(key) != state
        _found_ours[key] = state

    def checkpoint(self) -> None:
        """Move what a killed process left in the write-ahead log into the file."""
        with self._connect(read_only=False) as connection:
            raw: Any = connection.connection.driver_connection  # SQLAlchemy would begin a transaction
            raw.execute(f"checkpoint {NAME}")

    @contextmanager
    def _transaction(self, *, read_only: bool, threads: int | None = None, spoils: bool = False) -> Iterator[Session]:
        with self._connect(read_only=read_only, threads=threads, spoils=spoils) as connection, connection.begin():
            yield Session(connection.connection.driver_connection)

    @contextmanager
    def _connect(
        self, *, read_only: bool, threads: int | None = None, spoils: bool = False
    ) -> Iterator[sqlalchemy.Connection]:
        allowed = tuple(way for path in self.allowed for way in {path.absolute(), path.resolve()})
        require_plain_name(self.file)
        access = Access(follow(self.file), read_only, self.memory_limit, threads or self.threads, allowed)
        patience = current_patience() if self.patience is None else self.patience
        with ExitStack() as stack:

            def attempt() -> sqlalchemy.Connection:
                with explained(self.path):
                    return stack.enter_context(connect(access, spoils=spoils))

            connection = keep_trying(attempt, patience)
            with explained(self.path):
                yield connection


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
