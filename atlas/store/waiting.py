"""Wait for a file that another process has.

DuckDB lets one process write to a file, or several read it. So who finds it taken tries again, after longer and longer pauses,
and says once whom it waits for: a minute for what is soon done again, as long as it takes for what was dear to compute.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from atlas.errors import AtlasError, StoreError
from atlas.store.replacement import follow

PATIENCE = 60.0  # seconds, for what takes little to do again
FOREVER = math.inf  # for a build, and for what it took a model to compute
VARIABLE = "ATLAS_PATIENCE"  # environment: another number of seconds instead of PATIENCE
SILENT = 0.5  # seconds, before it is said: most who look at a file are gone by then
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what file systems say that have none
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds
Result = TypeVar("Result")
_patience: ContextVar[float | None] = ContextVar("patience", default=None)


class InUse(StoreError):
    """Another process has the file for now."""


@contextmanager
def patient(seconds: float = FOREVER) -> Iterator[None]:
    """Wait so long for files, in this thread, while the context lasts."""
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


def current_patience() -> float:
    """How many seconds to wait: those of `patient`, else of ATLAS_PATIENCE, else PATIENCE."""
    if (wanted := _patience.get()) is not None:
        return wanted
    given = os.environ.get(VARIABLE, "")
    try:
        seconds = float(given) if given.strip() else PATIENCE
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise AtlasError(f"{VARIABLE} is {given!r}: give a number of seconds, 0 or more, or inf")
    return seconds


def keep_trying(attempt: Callable[[], Result], patience: float) -> Result:
    """What `attempt` gives as soon as it does not raise InUse any more; the last InUse once the seconds are over."""
    started, pause, said = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            return attempt()
        except InUse as error:
            waited = time.monotonic() - started
            if waited >= patience:
                raise
            if waited >= SILENT and not said:
                said = True
                tell(error, patience)
            left = patience - waited
        time.sleep(min(left, pause * random.uniform(0.5, 1)))  # never in step with another who waits
        pause = min(2 * pause, LONGEST_PAUSE)


def tell(error: InUse, patience: float) -> None:
    """Say whom this waits for: one line on stderr, unless the program has set up its own logging."""
    limit = "" if patience == FOREVER else f", {patience:g} s at most"
    what = str(error).partition(": ")[0]
    logging.getLogger("atlas").warning("%s; waiting%s (Ctrl-C stops)", what, limit)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Build a file alone: who would build it as well meanwhile waits, as long as `current_patience` says.

    The mark is a lock on `path`.lock, which the system drops when its process ends, however that ends.

    Raises:
        StoreError: the file cannot be made.
    """
    mark = Path(f"{follow(path)}.lock")
    handle = keep_trying(lambda: _lock(mark, path), current_patience())
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)  # before it is free, so that nobody holds what is gone
        os.close(handle)


def clear_mark(path: Path) -> None:
    """Remove the mark of a build that was killed when all was done, unless somebody builds."""
    if Path(f"{follow(path)}.lock").exists():
        with suppress(StoreError), patient(0), alone(path):
            pass


def _lock(mark: Path, path: Path) -> int:
    """An open handle that has the lock on a mark; InUse when somebody else has it."""
    import fcntl

    try:
        handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose another folder") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(handle, mark):
            raise BlockingIOError
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
    except BlockingIOError as error:
        holder = os.pread(handle, 20, 0).decode(errors="replace")
        os.close(handle)
        who = f" (PID {holder})" if holder.isdigit() else ""
        raise InUse(f"{path} is being built by another process{who}: wait until it has finished, or stop it") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(handle)
            raise StoreError(f"{path} cannot be written ({error.strerror}): choose another folder") from error
    return handle


def _is_at(handle: int, mark: Path) -> bool:
    """Whether an open file is still the one of that name: who had the lock before has removed it at the end."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), mark.stat())
    return False
