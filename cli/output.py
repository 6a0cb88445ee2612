"""Print frames as a table, JSON or CSV, and progress on stderr."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from atlas.errors import visible
from atlas.store.cells import cells, csv_frame, flatten_lists, json_rows

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("table", "json", "csv")
format_option = click.option(
    "--format", "style", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the result."
)


def echo(text: str = "", *, err: bool = False) -> None:
    """Print lines, with a mark for what a terminal would obey instead of showing: a name may come from anywhere."""
    click.echo("\n".join(map(visible, text.split("\n"))), err=err)


def print_frame(frame: pl.DataFrame, style: str) -> None:
    """Print a frame on stdout; JSON is an array of objects with the column names of the tables."""
    print_batches([frame], style)


def print_batches(batches: Iterable[pl.DataFrame], style: str, *, limit: int | None = None) -> None:
    """Print frames of the same columns as one, none of them longer in memory than it takes.

    Args:
        batches: one at least.
        style: one of FORMATS.
        limit: print so many rows, and say on stderr when there are more; None for all.
    """
    {"json": _print_json, "csv": _print_csv, "table": _print_table}[style](_limited(batches, limit))


def _limited(batches: Iterable[pl.DataFrame], limit: int | None) -> Iterator[pl.DataFrame]:
    left = limit
    for batch in batches:
        if left is not None and batch.height > left:
            yield batch.head(left)
            click.echo(
                f"the first {limit:,} rows are shown, there are more: --limit 0 for all, or an ORDER BY", err=True
            )
            return
        yield batch
        left = None if left is None else left - batch.height


def _print_json(batches: Iterable[pl.DataFrame]) -> None:
    before = "[\n"
    for batch in batches:
        text = ",\n".join(f"  {row}" for row in json_rows(batch))
        if text:
            click.echo(before + text, nl=False)
            before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def _print_csv(batches: Iterable[pl.DataFrame]) -> None:
    for number, batch in enumerate(batches):
        click.echo(csv_frame(batch).write_csv(include_header=not number), nl=False)


def print_table(frame: pl.DataFrame) -> None:
    """Print a frame with a header line, fitted to the terminal; nothing is cut when stdout is not one."""
    _print_table([frame])


def _print_table(batches: Iterable[pl.DataFrame]) -> None:
    """The first frame says how wide the columns are."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    widths: list[int] = []
    rows = 0
    for batch in map(flatten_lists, batches):
        numeric = [kind.is_numeric() for kind in batch.dtypes]
        columns = [cells(series) for series in batch]
        lines = [list(line) for line in zip(*columns, strict=True)]
        if not widths:
            names = [visible(name) for name in batch.columns]
            widths = [max(map(len, [name, *column])) for name, column in zip(names, columns, strict=True)]
            lines.insert(0, names)
        click.echo("".join(f"{_line(line, widths, numeric)[:room]}\n" for line in lines), nl=False)
        rows += batch.height
    if not rows:
        click.echo("(no rows)")


def _line(texts: list[str], widths: list[int], numeric: list[bool]) -> str:
    parts = [
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(texts, widths, numeric, strict=True)
    ]
    return "  ".join(parts).rstrip()


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
        """Show that `done` of `total` are done; a total of 0 has no bar."""
        stage = visible(stage)
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
