"""Ask the file in SQL: the sealed, read-only connection of `atlas query`, with limits on rows and time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.errors import StoreError, visible
from atlas.explorer.address import link, neuron_link
from atlas.explorer.columns import LINKED
from atlas.explorer.export import export_buttons
from atlas.explorer.frame import attempt, copied, empty_state, framed, later
from atlas.explorer.visit import Visit
from atlas.store.cells import json_value

ROWS, SECONDS = 1000, 30.0  # of a query at most
LONGEST_CELL = 500  # characters
EXACT = 2**53  # integers that JavaScript has
START = (
    "select topic, sae_key, neuron, score, z, support\nfrom neuron_signals\nwhere score is not null\n"
    "order by z, score desc\nlimit 50"
)
SAMPLES = {
    "Best neurons": START,
    "One topic against another": "select * from compare_topics('medicine', 'cooking') limit 20",
    "Dense neurons": "select sae_key, neuron, density, support, label\nfrom neurons\norder by density desc\nlimit 50",
    "Who fires on a word": "select sae_key, neuron, max(activation) as activation, any_value(context) as context\n"
    "from examples\nwhere trim(token) = 'heart'\ngroup by all\norder by activation desc\nlimit 30",
    "Texts that were steered": "select method, prompt, text, created_at\nfrom generations\norder by created_at desc\nlimit 50",
}


@dataclass(frozen=True)
class Answer:
    """The rows of a query.

    Attributes:
        frame: the first rows.
        more: whether there are others.
        seconds: how long it took.
    """

    frame: pl.DataFrame
    more: bool
    seconds: float


def answer(visit: Visit, sql: str, stopped: threading.Event, *, rows: int = ROWS, seconds: float = SECONDS) -> Answer:
    """The first rows of a visitor's query.

    Raises:
        StoreError: it is no query, has a fault, took too long or was stopped.
    """
    began = monotonic()

    def over() -> bool:
        return stopped.is_set() or monotonic() - began > seconds

    try:
        with visit.atlas.store.stream(sql, limit=rows + 1, stopped=over) as batches:
            frame = pl.concat(list(batches), how="vertical_relaxed")
    except StoreError as error:
        if stopped.is_set():
            raise StoreError("the query was stopped") from error
        if over():
            raise StoreError(
                f"the query took longer than {seconds:g} s and was stopped: ask for less, or run it with `atlas query`"
            ) from error
        raise
    return Answer(frame.head(rows), frame.height > rows, monotonic() - began)


def add_sql_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/sql", title="SQL")
    def page(request: Request, q: str = "") -> None:
        with framed(visit, request, "/sql", "SQL"):
            SqlView(visit, q)


class SqlView:
    """A visitor's query and its rows."""

    def __init__(self, visit: Visit, text: str) -> None:
        self.visit, self.stopped = visit, threading.Event()
        ui.label("Ask in SQL").classes("title")
        ui.label(
            f"Read-only and sealed off, as `atlas query` is: at most {ROWS:,} rows and {SECONDS:g} seconds. Ctrl-Enter runs it."
        ).classes("soft")
        with ui.row().classes("chips"):
            for name, sample in SAMPLES.items():
                ui.link(name, link("/sql", q=sample)).classes("sample")
        with ui.row().classes("w-full no-wrap items-start sql"):
            with ui.column().classes("grow min-w-0"):
                self.box = ui.codemirror(text or START, language="SQLite", line_wrapping=True).classes("w-full editor")
                self.box.props('data-testid="sql-box"').on(
                    "keydown",
                    self.run,
                    js_handler="(e) => { if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) emit(); }",
                )
                with ui.row():
                    ui.button("Run", icon="play_arrow", on_click=self.run).props(
                        'unelevated no-caps data-testid="sql-run"'
                    )
                    self.stop = ui.button("Stop", icon="stop", on_click=self.stopped.set).props("outline no-caps")
                    self.stop.set_enabled(False)
                    ui.button("Copy as command", icon="content_copy", on_click=self.copy).props("flat no-caps")
            self._tables()
        self.result = ui.column().classes("w-full").props('data-testid="sql-result"')
        if text:
            later(self.run)
        else:
            with self.result:
                empty_state("Run the query above, choose another, or look up a table at the right.")

    def _tables(self) -> None:
        with ui.column().classes("panel tables"):
            ui.label("Tables and views").classes("soft small")
            columns = self.visit.ask("documented_columns")
            for (table, comment), rows in columns.group_by("table_name", "table_comment", maintain_order=True):
                with ui.expansion(str(table)).classes("small").props("dense"):
                    ui.label(str(comment or "")).classes("soft")
                    for row in rows.iter_rows(named=True):
                        ui.label(f"{row['column_name']}: {row['column_comment'] or ''}")

    def copy(self) -> None:
        """Put the command into the clipboard that gives the same rows."""
        text = self.box.value.replace("'", "'\\''")
        copied(f"atlas query {self.visit.atlas.store.path} '{text}'", "Command")

    async def run(self) -> None:
        """Run the query and show its rows."""
        sql = self.box.value
        ui.navigate.history.replace(link("/sql", q=sql))
        self.stopped.clear()
        self.stop.set_enabled(True)
        self.result.clear()
        with self.result:
            waiting = ui.spinner(size="lg")
        found = await attempt(answer, self.visit, sql, self.stopped)
        self.stop.set_enabled(False)
        waiting.delete()
        if found is not None:
            with self.result:
                show_answer(self.visit, sql, found)


def show_answer(visit: Visit, sql: str, found: Answer) -> None:
    """The rows of a query as a table; those with sae_key and neuron lead to neurons, and colour the map."""
    frame = found.frame
    more = f"the first {frame.height:,} rows, there are more" if found.more else f"{frame.height:,} rows"
    ui.label(f"{more}, {found.seconds:.2f} s").classes("soft small").props('data-testid="sql-count"')
    names = {f"c{at}": name for at, name in enumerate(frame.columns)}
    rows = [
        {"href": neuron_address(row), "id": number, **{key: cell(row[name]) for key, name in names.items()}}
        for number, row in enumerate(frame.iter_rows(named=True))
    ]
    columns = [
        {"name": key, "label": visible(name), "field": key, "sortable": True,
         "align": "right" if frame[name].dtype.is_numeric() else "left"}
        for key, name in names.items()
    ]  # fmt: skip
    table = ui.table(rows=rows, columns=columns, row_key="id", pagination=50)
    table.classes("neurons answer w-full").props(
        'flat dense data-testid="answer" :rows-per-page-options="[20,50,200,0]"'
    )
    numbers = [name for name in frame.columns if frame[name].dtype.is_numeric() and name not in ("sae_key", "neuron")]
    if {"sae_key", "neuron"} <= set(frame.columns):
        key = next(key for key, name in names.items() if name == "neuron")
        table.add_slot(f"body-cell-{key}", LINKED)
    with ui.row():
        export_buttons(visit, sql, "query")
        if {"sae_key", "neuron"} <= set(frame.columns) and numbers:
            ui.button(f"Colour the map by {visible(numbers[0])[:40]}", icon="scatter_plot",
                      on_click=lambda: ui.navigate.to(link("/map", sql=sql, colour="sql"))).props("flat no-caps")  # fmt: skip


def neuron_address(row: dict[str, Any]) -> str | None:
    """The page of the neuron that a row names; None for a row that names none."""
    key, neuron = row.get("sae_key"), row.get("neuron")
    return neuron_link(key, neuron) if isinstance(key, int) and isinstance(neuron, int) else None


def cell(value: Any) -> Any:
    """A value as the browser has it: exact, or a text, cut where it is long."""
    value = json_value(value)
    if isinstance(value, list | dict) or (isinstance(value, int) and abs(value) > EXACT):
        value = str(value)
    return f"{value[:LONGEST_CELL]} ..." if isinstance(value, str) and len(value) > LONGEST_CELL else value
