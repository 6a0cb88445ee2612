"""Write a file under another name, and let it take its place at once or not at all.

Names are what they point to: where a name is a link, the file that it leads to is replaced, and the link stays. The new file
has the permissions of the old one, and its owner where the system lets it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atlas.errors import StoreError

BESIDE = ("", ".wal")  # what DuckDB keeps of a file


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A new file to write, which takes the place of `path` when the block ends; after an error or Ctrl-C it is gone.

    Raises:
        StoreError: there is a folder, or the file cannot be written.
    """
    place = follow(path)
    if place.is_dir():
        raise StoreError(f"{path} is a folder: name a file in it")
    new = place.with_name(f"{place.name}.new")
    _remove(new)  # of a process that was killed
    try:
        yield new
        replace_file(new, place)
    finally:
        _remove(new)


def follow(path: Path) -> Path:
    """Where a name leads; StoreError when it leads nowhere."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError before Python 3.13
        raise StoreError(f"{path} is a link that leads to itself: remove it, or name another file") from error


def require_one_name(path: Path) -> None:
    """Raise StoreError for a file that other names lead to as well: replacing it would leave them the old one."""
    place = follow(path)
    if place.is_file() and place.stat().st_nlink > 1:
        raise StoreError(
            f"{path} has {place.stat().st_nlink} names (hard links), of which the others would keep an unfinished atlas: "
            f"give it a file of its own first, as in `cp {path} NEW && mv NEW {path}`"
        )


def replace_file(new: Path, old: Path) -> None:
    """Put a finished file in the place of an older one, at once or not at all."""
    if Path(f"{new}.wal").exists():
        raise StoreError(f"the disk is full while writing {old}: free some space and run the same command again")
    place = follow(old)
    if place.exists():
        with suppress(OSError):
            shutil.copymode(place, new)
            if (owner := _owner(place)) != _owner(new):
                os.chown(new, *owner)
                shutil.copymode(place, new)  # which a new owner clears of its special bits
    _flush(new)
    Path(f"{place}.wal").unlink(
        missing_ok=True
    )  # first: what is in it is in the new file, and it would be read into that
    new.replace(place)
    with suppress(OSError):  # not every file system flushes folders
        _flush(place.parent)


def _owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    for ending in BESIDE:
        Path(f"{path}{ending}").unlink(missing_ok=True)
