"""Tables as files: the rows of the SQL that stands under them, as CSV or Parquet."""

from __future__ import annotations

import io

import polars as pl
from nicegui import ui

from atlas.explorer.frame import attempt
from atlas.explorer.visit import Visit
from atlas.store.cells import csv_frame

MOST_ROWS = 1_000_000  # of a file


def export_buttons(visit: Visit, sql: str, name: str) -> None:
    """Buttons that give the rows of an SQL text as a file."""
    for kind in ("csv", "parquet"):
        ui.button(kind.upper(), icon="download", on_click=lambda kind=kind: _give(visit, sql, f"{name}.{kind}")).props(
            f'flat no-caps data-testid="{kind}"'
        ).tooltip(f"These rows as a {kind.upper()} file")


async def _give(visit: Visit, sql: str, name: str) -> None:
    content = await attempt(table_file, visit, sql, name.rpartition(".")[2])
    if content is not None:
        ui.download.content(content, name)


def table_file(visit: Visit, sql: str, kind: str) -> bytes:
    """The rows of an SQL text as the bytes of a file of a kind, csv or parquet; a CSV is the one that `atlas query` prints."""
    with visit.atlas.store.stream(sql, limit=MOST_ROWS) as batches:
        frame = pl.concat(list(batches), how="vertical_relaxed")
    file = io.BytesIO()
    if kind == "parquet":
        frame.write_parquet(file)
    else:
        csv_frame(frame).write_csv(file)
    return file.getvalue()
