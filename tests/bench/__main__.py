"""python -m tests.bench: measure what the README promises, as ratios taken side by side in one run."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from .machine import describe_machine
from .measure import CLOCKS, RUNS, Figure, Setting, Size, Unavailable

SIZES = {
    "small": Size(512, 2048, 100_000),
    "paper": Size(8192, 32768, 30_000_000),
    "large": Size(8192, 32768, 30_000_000),
}
BENCHMARKS = {  # name -> module of this folder that has a function of that name
    "score": "scoring",
    "score_many": "scoring",
    "uncertainty": "scoring",
    "small_topic": "meaning",
    "search": "meaning",
    "vectors": "meaning",
    "vector_build": "meaning",
    "matching": "matching",
    "topic": "building",
    "cli": "building",
    "storage": "scoring",
    "exchange_memory": "scoring",
    "build": "building",
    "build_memory": "building",
    "build_smollm2": "real_model",
    "steer_smollm2": "real_model",
    "steer": "steering",
    "growth": "scoring",
    "spark": "spark",
}
WHOLE_PROCESS = ("cli", "build_memory", "build_smollm2", "steer_smollm2", "spark")  # not at the small scale
JUDGED_SMALL = ("steer", "topic", "small_topic")  # the other targets are meant for the paper's scale


def run_benchmarks(names: Sequence[str], setting: Setting) -> list[dict[str, object]]:
    """Run benchmarks, print each figure as it comes, and give them as rows."""
    rows: list[dict[str, object]] = []
    for name in names:
        start = time.perf_counter()
        click.echo(f"\n{name}")
        try:
            for found in getattr(importlib.import_module(f"{__package__}.{BENCHMARKS[name]}"), name)(setting):
                if setting.small and name not in JUDGED_SMALL:
                    found = replace(found, reached=None)
                click.echo(format_figure(found))
                rows.append({"benchmark": name, **asdict(found)})
        except Unavailable as reason:
            click.echo(f"  skipped: {reason}")
            rows.append({"benchmark": name, "skipped": str(reason)})
        click.echo(f"  ({time.perf_counter() - start:.0f} s)", err=True)
    return rows


def format_figure(found: Figure) -> str:
    """A figure as a line: name, median, spread, runs, target and whether it is reached."""
    spread = f"{found.low:.4g} to {found.high:.4g}, {found.runs} runs" if found.runs > 1 else "1 run"
    verdict = {True: ": reached", False: ": MISSED", None: " at paper scale"}[found.reached]
    target = f"  [{found.target}{verdict}]" if found.target else ""
    return f"  {found.name:62s} {found.median:10.4g} {found.unit:9s} ({spread}){target}"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--scale", type=click.Choice(list(SIZES)), default="small", show_default=True, help="Size of the data.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the machine and the figures to this file.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True,
              help="What counts as time; cpu for a machine that does other work.")  # fmt: skip
@click.option("--runs", type=click.IntRange(min=1), default=RUNS, show_default=True, help="Rounds behind each figure.")
@click.option("--kept", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help="Make the synthetic atlases in this folder, and use those that an earlier run made.")  # fmt: skip
def main(names: tuple[str, ...], scale: str, file: Path | None, clock: str, runs: int, kept: Path | None) -> None:
    """Run the benchmarks NAMES, all that the scale has when none is named, and print their figures.

    Every figure is the median of several runs taken in turns with what it is compared with; its spread stands beside it.
    What takes over a minute is run once. Small: under two minutes in all. Paper: 30 million activation rows, about 10 GB
    of temporary files and half an hour. Large: growth to 300 million rows.

    \b
    Examples:
      python -m tests.bench
      python -m tests.bench score score_many --scale paper --json figures.json
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise click.UsageError(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen = list(names) or [name for name in BENCHMARKS if scale != "small" or name not in WHOLE_PROCESS]
    machine = describe_machine()
    click.echo(", ".join(f"{key} {value}" for key, value in machine.items()))
    click.echo(f"scale {scale}, {clock} clock")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(scale, SIZES[scale], Path(folder), clock, runs, kept)
        rows = run_benchmarks(chosen, setting)
    if file is not None:
        document = {"machine": machine, "scale": scale, "clock": clock, "figures": rows}
        file.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
