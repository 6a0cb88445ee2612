"""Time things side by side, and say what the figures are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUNS = 5
LONG = 60.0  # seconds: what takes longer is run once


class Unavailable(Exception):
    """A benchmark that cannot run here, and why."""


def cpu_time() -> float:
    """Processor seconds of this process and its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": cpu_time}


@dataclass(frozen=True)
class Size:
    """How large the synthetic atlas is; `rows` are activation rows, about."""

    prompts: int
    neurons: int
    rows: int


@dataclass(frozen=True)
class Setting:
    """What a benchmark is run with.

    Attributes:
        scale: small, paper or large.
        size: of the synthetic atlas.
        folder: for what is made on the way.
        kept: for synthetic atlases, which are used again where they are there; None for `folder`.
        clock: key of CLOCKS; cpu on a machine that does other work.
        runs: rounds of what takes less than LONG.
    """

    scale: str
    size: Size
    folder: Path
    clock: str = "wall"
    runs: int = RUNS
    kept: Path | None = None

    @property
    def small(self) -> bool:
        return self.scale == "small"

    def time_once(self, function: Callable[[], object]) -> float:
        """Seconds that a call takes."""
        clock = CLOCKS[self.clock]
        start = clock()
        function()
        return clock() - start

    def time_all(self, functions: Mapping[str, Callable[[], object]]) -> dict[str, np.ndarray]:
        """Seconds per function [run]: each once to warm up, then in turns, so that all see the same machine.

        What took over LONG the first time is not run again; its one figure stands for every run.
        """
        first = {name: self.time_once(function) for name, function in functions.items()}
        found: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(self.runs):
            for name, function in functions.items():
                found[name].append(first[name] if first[name] > LONG else self.time_once(function))
        return {name: np.array(seconds) for name, seconds in found.items()}


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Attributes:
        name: what it is.
        unit: such as "x" for a ratio.
        median: over the runs.
        low: the least of them.
        high: the largest.
        runs: different measurements behind it.
        target: what it should reach, in words; None when it is only reported.
        reached: whether it does; None without a target.
    """

    name: str
    unit: str
    median: float
    low: float
    high: float
    runs: int
    target: str | None = None
    reached: bool | None = None


def figure(
    name: str,
    values: Sequence[float] | np.ndarray | float,
    unit: str = "x",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    runs: int | None = None,
) -> Figure:
    """A figure from its values per run; `runs` where a value stands for several."""
    given = np.atleast_1d(np.asarray(values, dtype=float))
    median = float(np.median(given))
    target, reached = None, None
    if at_most is not None:
        target, reached = f"<= {at_most:g}", median <= at_most
    elif at_least is not None:
        target, reached = f">= {at_least:g}", median >= at_least
    return Figure(name, unit, median, float(given.min()), float(given.max()), runs or len(given), target, reached)


def exponent(rows: Sequence[float], seconds: Sequence[float]) -> float:
    """k of seconds ~ rows ** k, by least squares of the logarithms."""
    return float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])


def file_bytes(path: Path) -> int:
    """Size of a file, or of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def peak_memory(what: str, source: object, target: object) -> float:
    """MiB that a process of tests/bench/peak.py needs at most."""
    command = [sys.executable, "-m", f"{__package__}.peak", what, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) / 2**20


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
