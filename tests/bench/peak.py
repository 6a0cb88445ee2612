"""python -m tests.bench.peak WHAT FROM TO: do one thing in a process of its own, and print its peak memory in bytes.

build COUNT ATLAS     build an atlas of so many bundled prompts, each cut to 200 characters
export ATLAS DIR      as `atlas export` does
import DIR ATLAS      as `atlas import` does
"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store

CHARACTERS = 200  # of every prompt


def build(count: str, atlas: str) -> None:
    """Build an atlas; what only this needs is imported here, so that the others are measured without it."""
    from .building import build_loaded, some_prompts

    build_loaded(Path(atlas), some_prompts(int(count), CHARACTERS))


def main(what: str, source: str, target: str) -> None:
    """Do it, and print what the system counted."""
    {"build": build, "export": lambda a, b: export_atlas(Store(a), b), "import": import_atlas}[what](source, target)
    print(peak_bytes(), flush=True)


def peak_bytes() -> int:
    """Peak memory of this process. On Linux getrusage would count that of the process which started it too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
