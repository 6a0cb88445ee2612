"""Keep what was dear to compute: it is shown before it is stored, and when storing fails it is not lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas.errors import StoreError


class NotStored(UserWarning):
    """What was computed is returned, and could not be stored in the atlas."""


warnings.simplefilter("always", NotStored, append=True)  # each loses rows; those of a loop have the same text


@contextmanager
def storing(what: str, path: Path) -> Iterator[None]:
    """Store what has been shown or is returned all the same: a StoreError becomes a warning (NotStored).

    Args:
        what: what is stored, in the plural, such as "these texts".
        path: the atlas.
    """
    try:
        yield
    except StoreError as error:
        text = f"{what} are not stored in {path}: {error}; then run the same command again if you want them in it"
        warnings.warn(text, NotStored, stacklevel=4)


def show_nobody(result: Any) -> None:
    """Show a result to nobody before it is stored."""
