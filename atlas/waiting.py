"""Wait for a file that another process has.

DuckDB lets one process write to a file, or several read it. So who finds it taken tries again, after longer and longer pauses,
and says once whom it waits for: a minute for what is soon done again, as long as it takes for what was dear to compute.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from atlas.errors import AtlasError, StoreError

PATIENCE = 60.0  # seconds, for what takes little to do again
FOREVER = math.inf  # for a build, and for what it took a model to compute
VARIABLE = "ATLAS_PATIENCE"  # environment: another number of seconds instead of PATIENCE
SILENT = 0.5  # seconds, before it is said: most who look at a file are gone by then
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
