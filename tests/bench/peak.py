"""python -m tests.bench.peak ATLAS COUNT: build an atlas of so many prompts and print the peak memory in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from .building import build_loaded, some_prompts

CHARACTERS = 200  # of every prompt


def main(path: str, count: str) -> None:
    """Build, and print what the system counted."""
    build_loaded(Path(path), some_prompts(int(count), CHARACTERS))
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
