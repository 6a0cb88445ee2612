"""Buttons that give a table as a file: all rows of the SQL that stands under it, as CSV or Parquet."""

from __future__ import annotations

import threading

from nicegui import run, ui

from atlas.errors import AtlasError
from atlas.explorer.files import WRITERS, write_rows
from atlas.explorer.frame import say
from atlas.explorer.visit import Visit

LOOK = 0.5  # seconds between two looks at how many rows are written


def export_buttons(visit: Visit, sql: str, name: str) -> None:
    """Buttons that give the rows of an SQL text as a file."""
    for kind in WRITERS:
        ui.button(kind.upper(), icon="download", on_click=lambda kind=kind: _give(visit, sql, kind, name)).props(
            f'flat no-caps data-testid="{kind}"'
        ).tooltip(f"These rows as a {kind.upper()} file")


class _Written:
    """How many rows of a file are written."""

    rows = 0

    def take(self, rows: int) -> None:
        """So many are."""
        self.rows = rows


async def _give(visit: Visit, sql: str, kind: str, name: str) -> None:
    """Write a file, told of by a note that can stop it, and let the browser fetch it."""
    stopped, written = threading.Event(), _Written()
    ui.context.client.on_disconnect(stopped.set)
    note = ui.notification(
        f"Writing the {kind.upper()} file ...", spinner=True, timeout=None, close_button="stop", on_dismiss=stopped.set
    )

    def look() -> None:
        if written.rows:
            note.message = f"Writing the {kind.upper()} file: {written.rows:,} rows ..."

    timer = ui.timer(LOOK, look)
    try:
        file = await run.io_bound(write_rows, visit.atlas.store, sql, kind, stopped=stopped.is_set, told=written.take)
    except AtlasError as error:
        if not stopped.is_set():
            say(error)
        return
    finally:
        if not note.is_deleted:
            timer.cancel()
            note.dismiss()
    if file is None:  # the server ends
        return
    if stopped.is_set():
        file.close()
        return
    called = f"{name}.{kind}"
    ui.download.from_url(f"/_atlas_file/{visit.files.put(file, called)}", called)
