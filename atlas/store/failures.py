"""What goes wrong with the file, in one line that says what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
from sqlalchemy.exc import DBAPIError

from atlas.errors import StoreError
from atlas.store.waiting import InUse

ODD_VECTOR = re.compile("list dimensions must be equal|argument can not contain NULL")  # of list_distance and its like


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
    if isinstance(cause, duckdb.InvalidInputException) and ODD_VECTOR.search(text):
        return StoreError(
            f"{path} is damaged (a vector is of another width than others, or no number): build it again, or get the file again "
            "from where it came"
        )
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
