"""What a visitor does with the ticked neurons of a table: keep them in a list, steer with them."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from atlas.explorer.address import link, selection
from atlas.explorer.frame import attempt
from atlas.explorer.visit import Visit
from atlas.meaning.notes import DEFAULT_LIST, add_notes, read_lists

Picked = dict[int, list[int]]  # sae_key -> neurons
NONE = "Tick some neurons first: the boxes stand at the left of the rows."


def picked(table: ui.table, *, every: bool = False) -> Picked:
    """The neurons that are ticked in a table, per SAE; with `every` all of them where none is ticked."""
    found: Picked = {}
    for row in table.selected or (table.rows if every else ()):
        found.setdefault(row["sae_key"], []).append(row["neuron"])
    return found


def steer_with(table: ui.table, *, every: bool = False) -> None:
    """Go to the page that steers, with the neurons that `picked` gives."""
    chosen = picked(table, every=every)
    if not chosen:
        ui.notify(NONE)
        return
    ui.navigate.to(link("/steer", neurons=selection(chosen)))


def keep_in_list(visit: Visit, chosen: Callable[[], Picked]) -> None:
    """A button that puts neurons into a list of the visitor's choice, with a note on them."""

    async def ask() -> None:
        neurons = chosen()
        if not neurons:
            ui.notify(NONE)
            return
        lists = await attempt(read_lists, visit.atlas.store)
        if lists is not None:
            _ask_list(visit, neurons, lists["list"].to_list())

    button = ui.button("Keep in a list", icon="bookmark_add", on_click=ask).props('outline no-caps data-testid="keep"')
    button.set_enabled(not visit.read_only)


def _ask_list(visit: Visit, neurons: Picked, lists: list[str]) -> None:
    count = sum(map(len, neurons.values()))
    with ui.dialog() as dialog, ui.card():
        ui.label(f"Keep {count} neuron{'s' if count > 1 else ''} in a list").classes("text-lg")
        ui.label(
            "A list can steer in a topic's stead, by its name: from the page Steer, `atlas steer` and Python."
        ).classes("soft w-72")
        name = ui.input("List", value=lists[0] if lists else DEFAULT_LIST, autocomplete=lists)
        name.props('autofocus data-testid="list-name"').classes("w-72")
        text = ui.textarea("Note on them (may be empty)").props('autogrow data-testid="list-text"').classes("w-72")

        async def keep() -> None:
            note = text.value.strip() if text.value else None
            kept = await attempt(_keep, visit, neurons, name.value or "", note or None)
            if kept:
                dialog.close()
                ui.notify(f"kept in {name.value}: it stands under Lists, and steers by that name")

        with ui.row():
            ui.button("Keep", on_click=keep).props('unelevated no-caps data-testid="list-keep"')
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
    dialog.open()


def _keep(visit: Visit, neurons: Picked, name: str, text: str | None) -> bool:
    add_notes(visit.atlas.store, neurons, name=name, text=text)
    return True
