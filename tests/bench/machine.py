"""What a benchmark ran on: cores, memory, processor and library versions; no host names and no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from .measure import cores

LIBRARIES = ("duckdb", "numpy", "polars", "scipy", "torch", "transformers", "transformer-lens", "sae-lens", "pyspark")


def describe_machine() -> dict[str, Any]:
    """Cores this process may use, memory in GiB, processor, load before the benchmarks, Python and libraries."""
    return {
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": _processor(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version for name in LIBRARIES if (version := _version(name))},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
