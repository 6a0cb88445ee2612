"""DuckDB on an atlas file: a sealed instance in memory attaches the file, and the sessions of this process share it.

Sealed means: nothing but the file, its log and what the caller allows can be read or written, no extension is fetched or
loaded, and no setting can be changed. It is sealed before it looks at the file, so that nothing in a file runs unsealed.
In memory, because DuckDB wants one configuration per file and process, and a user's own connection has another.
Making an instance takes five times as long as attaching a file to it: it is kept for a while, without the file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy
from duckdb_engine import ConnectionWrapper
from sqlalchemy.pool import NullPool

from atlas.store.spill import reading_limit, remove_spill, spill_folder, use_again

try:
    import fcntl
except ImportError:  # Windows, where a lock is the descriptor's
    fcntl = None  # type: ignore[assignment]


NAME = "held"  # of the attached file, among the databases of the instance
SETTINGS = {
    "storage_compatibility_version": "v1.0.0",  # so that older DuckDB clients open the file too
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # a name in SQL is never a Python variable
}
ADJUSTABLE = ("disabled_optimizers", "perfect_ht_threshold")  # what atlas.store sets for a scan
# Names are looked up among DuckDB's own first: a function of the file can never stand in for one of those.
SEARCH_PATH = f"system.main,{NAME}.main"
KEPT = 4  # instances at most that wait for their file's next session
KEPT_FOR = 120.0  # seconds since they were made: free disk, by which they were limited, is another later
LOGS = ("", ".wal", ".wal.checkpoint", ".wal.recovery")  # of an attached file


@dataclass(frozen=True)
class Access:
    """How a file is opened; sessions with equal ones share an instance.

    Attributes:
        path: the file.
        read_only: whether nothing can be written to it.
        memory_limit: what DuckDB may take, such as "2GB".
        threads: how many DuckDB may use; None for one per processor.
        allowed: files and folders that its sessions may reach beside it.
    """

    path: Path
    read_only: bool
    memory_limit: str
    threads: int | None = None
    allowed: tuple[Path, ...] = ()


@dataclass
class _Instance:
    """An open instance, and how many sessions use it.

    Attributes:
        root: DuckDB's connection.
        engine: gives sessions theirs.
        spill: folder for what does not fit into its memory.
        made: when, in seconds.
        sessions: how many have the file open.
        spoiled: whether something may be left in it that later sessions must not meet.
    """

    root: Any
    engine: sqlalchemy.Engine
    spill: Path
    made: float = field(default_factory=time.monotonic)
    sessions: int = 0
    spoiled: bool = False


@dataclass
class _Users:
    """Which threads of this process have a file open: they read together, and write alone."""

    readers: list[int] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)

    def admit(self, *, read_only: bool) -> bool:
        """Whether another session fits beside those there are."""
        return not self.writers and (read_only or not self.readers)


_changed = threading.Condition(threading.RLock())
_users: dict[Path, _Users] = {}
_instances: dict[Access, _Instance] = {}
_kept: dict[Access, _Instance] = {}  # without their file
_forked: list[_Instance] = []  # of the process that this one was forked from: never to be used or closed here
_locks: dict[Path, int] = {}  # file -> the descriptor that holds the lock on it for a user's own connection


@contextmanager
def connect(access: Access, *, spoils: bool = False) -> Iterator[sqlalchemy.Connection]:
    """A connection to a file. Waits for other threads of this process while they write it, or read what it would write.

    Args:
        access: how the file is opened.
        spoils: whether anybody's SQL runs in it, which later sessions must not meet the traces of.

    Raises:
        duckdb.Error: the file cannot be opened.
    """
    with _turn(access):
        instance = _enter(access)
        failed = True
        try:
            with instance.engine.connect() as connection:
                yield connection
            failed = False
        finally:
            _leave(access, instance, spoiled=failed or spoils)


@contextmanager
def _turn(access: Access) -> Iterator[None]:
    """Wait until other threads of this process leave the file as free as this access needs it."""
    me, path = threading.get_ident(), access.path
    with _changed:
        users = _users.setdefault(path, _Users())
        while not users.admit(read_only=access.read_only) and me not in users.readers + users.writers:
            _changed.wait()  # a thread that waited for itself would wait for ever: DuckDB refuses it instead
        mine = users.readers if access.read_only else users.writers
        mine.append(me)
    try:
        yield
    finally:
        with _changed:
            mine.remove(me)
            _changed.notify_all()


def _enter(access: Access) -> _Instance:
    with _changed:
        instance = _instances.get(access)
        if instance is None:
            instance = _instances[access] = _take_kept(access) or _make(access)
        instance.sessions += 1
        return instance


def _make(access: Access) -> _Instance:
    spill = spill_folder(access.path)
    root = _open(access, spill)
    engine = sqlalchemy.create_engine(
        "duckdb://",
        creator=lambda: _join(root),
        poolclass=NullPool,
        pool_reset_on_return=None,  # closing drops a transaction; after an error DuckDB can't roll back any more
    )
    return _Instance(root, engine, spill)


def _take_kept(access: Access) -> _Instance | None:
    """The instance that was kept for this access, its file attached again; None where there is none."""
    instance = _kept.pop(access, None)
    if instance is None:
        return None
    if time.monotonic() - instance.made > KEPT_FOR:
        instance.root.close()
        return None
    try:
        instance.root.execute(_attaching(access))
    except BaseException:
        instance.root.close()
        raise
    use_again(instance.spill, access.path)
    return instance


def _leave(access: Access, instance: _Instance, *, spoiled: bool) -> None:
    with _changed:
        instance.sessions -= 1
        instance.spoiled |= spoiled
        if not instance.sessions:
            del _instances[access]
            _keep(access, instance)
            _lock_for_others(access.path)
            remove_spill(instance.spill)


def _keep(access: Access, instance: _Instance) -> None:
    """Detach the file of an instance and keep it, or close it: one that has spilled would miss its folder."""
    if instance.spoiled or instance.spill.exists() or _attached(instance.root) != {NAME}:
        instance.root.close()
        return
    try:
        instance.root.execute(f"detach {NAME}")
    except (
        duckdb.Error
    ):  # no room to move the log into the file: what was committed stays in the log, as when it is closed
        instance.root.close()
        return
    _kept[access] = instance
    while len(_kept) > KEPT:
        _kept.pop(next(iter(_kept))).root.close()


def _attached(root: Any) -> set[str]:
    """The files of an instance, by their names in it."""
    rows = root.execute(
        "select d.database_name from duckdb_databases() as d where not d.internal and d.path is not null"
    )
    return {name for (name,) in rows.fetchall()}


def _forget_kept() -> None:
    """In a process that was forked: DuckDB's threads are not there, so that the instances are of no use."""
    _forked.extend(_kept.values())
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_kept)


def _lock_for_others(path: Path) -> None:
    """Take the lock again that closing a file has dropped, while another connection of this process has the file open.

    POSIX drops all locks of a process on a file when it closes the file once; another process could write meanwhile.
    """
    if fcntl is None or not path.exists() or not Path("/dev/fd").is_dir():
        return
    held = _locks.get(path)
    if _is_open(path, besides=held):
        held = _locks.setdefault(path, os.open(path, os.O_RDONLY) if held is None else held)
        with suppress(OSError):
            fcntl.lockf(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    elif held is not None:
        os.close(_locks.pop(path))


def _is_open(path: Path, *, besides: int | None) -> bool:
    """Whether this process has a file open under another descriptor."""
    wanted = path.stat()
    for number in [int(one.name) for one in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # the one that listed them is closed again
            if number != besides and os.path.samestat(os.fstat(number), wanted):
                return True
    return False


def _open(access: Access, spill: Path) -> Any:
    """A sealed instance with the file attached, and a folder for what does not fit into its memory."""
    settings: dict[str, Any] = {**SETTINGS, "memory_limit": access.memory_limit, "temp_directory": str(spill)}
    if access.threads:
        settings["threads"] = str(access.threads)
    if access.read_only:
        settings["max_temp_directory_size"] = reading_limit(spill)
    root = duckdb.connect(":memory:", config=settings)
    try:
        for statement in _sealing(access):
            root.execute(statement)
    except BaseException:
        root.close()
        raise
    return root


def _sealing(access: Access) -> list[str]:
    """The statements that seal an instance, attach the file, and lock what was set."""
    files = [f"{path}{end}" for path in (access.path, *access.allowed) for end in LOGS]
    return [
        f"set allowed_paths = [{', '.join(map(quote, files))}]",
        f"set allowed_directories = [{', '.join(quote(f'{path}{os.sep}') for path in access.allowed)}]",
        f"set allowed_configs = [{', '.join(map(quote, ADJUSTABLE))}]",
        "set enable_external_access = false",
        _attaching(access),
        "set lock_configuration = true",
    ]


def _attaching(access: Access) -> str:
    return f"attach {quote(access.path)} as {NAME}{' (read_only)' if access.read_only else ''}"


def _join(root: Any) -> ConnectionWrapper:
    """Another connection to an instance: a session has transactions, temporary tables and a search path of its own."""
    connection = root.duplicate()
    connection.execute(f"set search_path = {quote(SEARCH_PATH)}")
    return ConnectionWrapper(connection)


def quote(text: str | Path) -> str:
    """A text as a literal of SQL, for the statements that take no parameters."""
    return "'" + str(text).replace("'", "''") + "'"
