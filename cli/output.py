"""Print frames as a table, JSON or CSV, and progress on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "json", "csv")
format_option = click.option(
    "--format", "style", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the result."
)


def print_frame(frame: pl.DataFrame, style: str) -> None:
    """Print a frame on stdout; JSON is an array of objects with the column names of the tables."""
    if style == "json":
        click.echo(json.dumps(frame.to_dicts(), indent=2, ensure_ascii=False, default=str))
    elif style == "csv":
        click.echo(flatten_lists(frame).write_csv(), nl=False)
    else:
        print_table(flatten_lists(frame))


def flatten_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists of strings as one string; spaces at the front of tokens are kept apart by the separator."""
    import polars as pl

    lists = [name for name, kind in frame.schema.items() if kind == pl.List(pl.String)]
    return frame.with_columns(pl.col(name).list.eval(pl.element().str.strip_chars()).list.join(" ") for name in lists)


def print_table(frame: pl.DataFrame) -> None:
    """Print a frame with a header line, fitted to the terminal; nothing is cut when stdout is not one."""

    columns = []
    for name in frame.columns:
        kind = frame.schema[name]
        cells = [_cell(value) for value in frame[name].to_list()]
        columns.append((name, cells, kind.is_numeric()))
    widths = [max(len(name), *map(len, cells), 0) if cells else len(name) for name, cells, _ in columns]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = [[name for name, _, _ in columns], *zip(*(cells for _, cells, _ in columns), strict=True)]
    for line in lines:
        parts = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, (_, _, numeric) in zip(line, widths, columns, strict=True)
        ]
        click.echo("  ".join(parts).rstrip()[:room])
    if not frame.height:
        click.echo("(no rows)")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 and value else f"{value:.3f}"
    return " ".join(str(value).split())


def interval(row: dict[str, Any], sign: int = 1) -> str:
    """A mean and its interval, from the columns value, low and high; times `sign`."""
    if row["low"] is None:
        return f"{sign * row['value']:.3f}"
    low, high = sorted((sign * row["low"], sign * row["high"]))
    return f"{sign * row['value']:.3f} [{low:.3f}, {high:.3f}]"


class Progress:
    """Shows the stages of a long command on stderr: a bar where the length is known, else a line."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage = stage
            if total:
                self._bar = click.progressbar(length=total, label=stage, file=sys.stderr)
                self._bar.__enter__()
            else:
                click.echo(f"{stage} ...", err=True)
        if self._bar is not None:
            self._bar.update(done - self._bar.pos)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
        self._stage = ""
