"""How a long stage tells what it is doing: progress(stage, done, total); total 0 when the length is not known."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
