"""Where a build on Spark leaves computed shards until the driver takes them in, and how that is cleared."""

from __future__ import annotations

import re
import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from atlas.store.file import Store
from atlas.store.replacement import follow

STAGED = re.compile(r"\.?\d{9}-[0-9a-f]{16}(\.\w+)?")  # names of what is put into a staging folder


def staging_folder(store: Store, parent: str | Path | None = None) -> Path:
    """Where a build on Spark puts shards that are computed and not yet taken in; beside the atlas unless told."""
    place = follow(store.path)
    return Path(parent or place.parent).resolve() / f"{place.name}.shards"


def clear_staging(folder: Path, *, keep: Container[str] = ()) -> None:
    """Remove what builds put into a staging folder, but for some shards, and the folder when it is empty then."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if STAGED.fullmatch(path.name) and path.name.removesuffix(".prompts") not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with suppress(OSError):
        folder.rmdir()
