"""Where DuckDB puts what does not fit into its memory: a folder of each process's own beside the atlas, gone afterwards.

DuckDB's own choice is one folder `<atlas>.tmp` for all processes, which a killed one leaves behind for good.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path

READING_LIMIT = (
    16 << 30
)  # bytes that sessions which only read may put on the disk, and no more than half of what is free
UNTOUCHED = 3600  # seconds after which a folder of which nobody can tell whose it is counts as left
OURS = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}")
FILES = "duckdb_temp_*"
_in_use: set[Path] = set()  # of this process


def spill_folder(atlas: Path) -> Path:
    """The name of a new folder for this process; DuckDB makes it when it needs it. Folders of killed ones are removed."""
    clear_left(atlas)
    place = atlas if os.access(atlas.parent, os.W_OK) else Path(tempfile.gettempdir()) / atlas.name
    folder = place.with_name(f"{place.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    _in_use.add(folder)
    return folder


def use_again(folder: Path, atlas: Path) -> None:
    """Let the name of a folder that was removed be in use again, for the same DuckDB; DuckDB makes it when it needs it."""
    clear_left(atlas)
    _in_use.add(folder)


def reading_limit(atlas: Path) -> str:
    """What sessions that only read may put on the disk, as DuckDB takes it."""
    try:
        free = shutil.disk_usage(atlas.parent).free
    except OSError:
        free = READING_LIMIT
    return f"{min(READING_LIMIT, free // 2) >> 20}MiB"


def clear_left(atlas: Path) -> None:
    """Remove what killed processes left beside an atlas; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in atlas.parent.iterdir():
            if path.name.startswith(f"{atlas.name}.tmp") and _is_left(path, path.name[len(atlas.name) :]):
                remove_spill(path)


def remove_spill(folder: Path) -> None:
    """Remove DuckDB's files from a folder, and the folder when nothing else is in it."""
    _in_use.discard(folder)
    with contextlib.suppress(OSError):
        for path in folder.glob(FILES):
            path.unlink()
        folder.rmdir()


def remove_all() -> None:
    """Remove the folders of this process, which is about to end."""
    for folder in list(_in_use):
        remove_spill(folder)


def _is_left(folder: Path, ending: str) -> bool:
    """Whether nobody uses a folder any more."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = OURS.fullmatch(ending)
    if found:
        return not _runs(int(found[1]))
    return ending == ".tmp" and all(map(_is_unused, folder.glob(FILES)))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _is_unused(path: Path) -> bool:
    """Whether no process has a file open; where the system cannot tell, whether it has not been touched for long."""
    import fcntl

    old = time.time() - path.stat().st_mtime > UNTOUCHED
    if path.suffix == ".block" or not hasattr(fcntl, "F_SETLEASE"):  # DuckDB closes these while it needs them
        return old
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # is refused while the file is open elsewhere
    except BlockingIOError:
        return False
    except OSError:
        return old
    finally:
        os.close(handle)
    return True
