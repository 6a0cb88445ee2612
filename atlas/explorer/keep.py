"""What a visitor does with the ticked neurons of a table: keep them in a list, steer with them."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from atlas.explorer.address import link, selection
from atlas.explorer.visit import Visit

Picked = dict[int, list[int]]  # sae_key -> neurons
NONE = "Tick some neurons first: the boxes stand at the left of the rows."


def picked(table: ui.table) -> Picked:
    """The neurons that are ticked in a table, per SAE."""
    found: Picked = {}
    for row in table.selected:
        found.setdefault(row["sae_key"], []).append(row["neuron"])
    return found


def steer_with(table: ui.table) -> None:
    """Go to the page that steers, with the ticked neurons."""
    chosen = picked(table)
    if not chosen:
        ui.notify(NONE)
        return
    ui.navigate.to(link("/steer", neurons=selection(chosen)))


def keep_in_list(visit: Visit, chosen: Callable[[], Picked]) -> None:
    """A button that puts the ticked neurons into a list of the visitor's choice."""
