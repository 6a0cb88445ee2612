"""Neurons that were picked from a plot: their table, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from nicegui import ui

from atlas.explorer.columns import neuron_table
from atlas.explorer.export import export_buttons
from atlas.explorer.frame import attempt, code_block, empty_state
from atlas.explorer.keep import keep_in_list, picked, steer_with
from atlas.explorer.visit import Visit


def pairs(rows: pl.DataFrame) -> str:
    """Neurons of rows as SQL has them behind (sae_key, neuron) in."""
    return ", ".join(f"({key}, {neuron})" for key, neuron in rows.select("sae_key", "neuron").iter_rows())


async def list_neurons(
    visit: Visit, place: ui.column, sql: str, *, shown: Sequence[str], title: str, more: bool = False
) -> None:
    """Fill a place with the rows of a query.

    Args:
        visit: the atlas.
        place: what is filled.
        sql: the query; its rows have sae_key and neuron.
        shown: the columns that are shown.
        title: what the rows are.
        more: whether these are not all of them.
    """
    found = await attempt(visit.atlas.sql, sql)
    if found is None:
        return
    place.clear()
    with place:
        ui.label(f"{title}: {found.height:,} rows{', the first of them' if more else ''}").classes("result").props(
            'data-testid="listed-count"'
        )
        if found.is_empty():
            empty_state("There is no such neuron.")
            return
        table = neuron_table(found, shown, pick=True, page=50, mark="listed")
        with ui.row().classes("items-center"):
            ui.button("Steer with them", icon="tune", on_click=lambda: steer_with(table, every=True)).props(
                "outline no-caps"
            )
            keep_in_list(visit, lambda: picked(table, every=True))
            ui.label("the ticked ones, or all of them where none is ticked").classes("soft small")
            export_buttons(visit, sql, "neurons")
        with ui.expansion("The SQL behind this table", icon="terminal").classes("w-full"):
            code_block(sql)
