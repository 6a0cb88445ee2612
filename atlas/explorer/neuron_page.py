"""A neuron's own page."""

from __future__ import annotations

import functools
from typing import Any

from nicegui import ui
from starlette.requests import Request

from atlas.errors import UnknownName
from atlas.explorer.address import link, neuron_link, selection
from atlas.explorer.columns import words
from atlas.explorer.frame import attempt, empty_state, framed, later
from atlas.explorer.visit import Visit


def add_neuron_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/neuron/{sae_key}/{neuron}", title="Neuron")
    def page(request: Request, sae_key: int, neuron: int) -> None:
        with framed(visit, request, "/", f"Neuron {neuron}"):
            place = ui.column().classes("w-full").props('data-testid="neuron"')
            later(functools.partial(show_neuron, visit, place, sae_key, neuron))


async def show_neuron(visit: Visit, place: ui.column, sae_key: int, neuron: int) -> None:
    """Fill a place with what the file says of a neuron."""
    row = await attempt(facts, visit, sae_key, neuron)
    examples = await attempt(visit.atlas.examples, neuron, sae_id=sae_key)
    if row is None or examples is None:
        return
    with place:
        ui.label(row["label"] or f"Neuron {neuron}").classes("title")
        with ui.row().classes("small"):
            for other, name in ((neuron - 1, "previous"), (neuron + 1, "next")):
                if 0 <= other < row["d_sae"]:
                    ui.link(f"{name}: {other}", neuron_link(sae_key, other))
            ui.link("steer with it", link("/steer", neurons=selection({sae_key: [neuron]})))
        ui.label(
            f"{row['sae_id']}, neuron {neuron}: fires on {row['support']:,} reference prompts and {row['density']:.4%} of their "
            f"tokens, at most with {row['max_activation']:.4g}"
        ).classes("soft")
        if not row["support"]:
            empty_state(
                "This neuron is dead: it fired on no reference prompt, so that nothing is known of what it means."
            )
        ui.label(f"Writes: {words(row['top_tokens'])}")
        for example in examples.iter_rows(named=True):
            ui.label(f"{example['activation']:.3g}  {example['context']}")


def facts(visit: Visit, sae_key: int, neuron: int) -> dict[str, Any]:
    """The figures of a neuron; UnknownName where there is none."""
    found = visit.atlas.sql(
        "select n.*, s.sae_id, s.d_sae, l.label as shown from neurons as n join saes as s on s.sae_key = n.sae_key "
        "left join neuron_labels as l on l.sae_key = n.sae_key and l.neuron = n.neuron "
        f"where n.sae_key = {int(sae_key)} and n.neuron = {int(neuron)}"
    )
    if found.is_empty():
        raise UnknownName("neuron", f"{sae_key}:{neuron}", [])
    return {**found.row(0, named=True), "label": found.item(0, "shown")}
