"""Points that a browser draws: kept for it under a name that cannot be guessed, and sent as numbers of 32 bits."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

import numpy as np
import polars as pl

KEPT = 64  # sets of points; the one that was used least lately goes first


class Points:
    """The sets of points that browsers may fetch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sets: OrderedDict[str, bytes] = OrderedDict()

    def put(self, frame: pl.DataFrame) -> str:
        """Keep the columns x, y and colour of a frame; the name that they are fetched by. What is null becomes NaN."""
        name, content = secrets.token_urlsafe(12), pack(frame)
        with self._lock:
            self._sets[name] = content
            while len(self._sets) > KEPT:
                self._sets.popitem(last=False)
        return name

    def get(self, name: str) -> bytes | None:
        """What was kept under a name; None when it is gone."""
        with self._lock:
            if name in self._sets:
                self._sets.move_to_end(name)
            return self._sets.get(name)


def pack(frame: pl.DataFrame) -> bytes:
    """How many points there are, then x, y and colour of all, in 32 bits each, the least significant byte first."""
    columns = [frame[name].cast(pl.Float32).fill_null(float("nan")).to_numpy() for name in ("x", "y", "colour")]
    return b"".join([np.uint32(frame.height).tobytes(), *(column.astype("<f4").tobytes() for column in columns)])
