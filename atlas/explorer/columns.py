"""Tables of neurons: their columns, what a column's name means, and cells that are drawn (Vue templates, which escape texts)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from nicegui import ui

from atlas.explorer.address import link, neuron_link

HINTS = {  # column -> what it means, for who sees it first
    "neuron": "Number of the neuron (one latent of a sparse autoencoder; others say feature). Click for its page.",
    "sae_id": "The sparse autoencoder that the neuron belongs to, by the layer that it reads.",
    "score": "How close the prompts that the neuron fires on are to the texts, 0 to 1 within its SAE; the line is ± 1 standard "
    "error.",
    "z": "How much closer than to random texts, in standard deviations. Below -2 is more than chance; it can be compared "
    "across SAEs.",
    "g": "Mean squared distance of the neuron's prompts to the texts: what the score is made of. Smaller is closer.",
    "se": "Standard error of the score, over the prompts.",
    "support": "Reference prompts on which the neuron fired.",
    "density": "Share of the reference tokens on which the neuron fires.",
    "label": "A few words about the neuron: `atlas label` makes them, and they can be imported.",
    "fires_on": "Tokens on which the neuron fires most.",
    "writes": "Tokens that the neuron makes likelier (its decoder row through the final norm and the unembedding).",
    "top_tokens": "Tokens that the neuron makes likelier (its decoder row through the final norm and the unembedding).",
    "distance": "Distance of the prompt's embedding to the nearest text of the topic.",
    "weight": "The neuron's share of the prompt's activation, of all its prompts together.",
    "contribution": "Weight x distance to the power of the scoring: all contributions sum to g.",
    "cosine": "1 is the same direction, 0 has nothing to do with it.",
    "rank": "Place among the neurons of its SAE.",
    "auroc": "How well the activation tells the topic's texts from reference prompts: 0.5 is chance, 1 is perfect.",
}
OPTIONAL = ("label",)  # columns that are left out where no row has anything in them
NAMES = {"sae_id": "SAE", "fires_on": "fires on", "top_tokens": "writes"}
NUMBERS = {
    "score": 3,
    "z": 2,
    "g": 4,
    "se": 3,
    "density": 5,
    "distance": 4,
    "weight": 5,
    "contribution": 5,
    "cosine": 3,
    "colour": 3,
    "a": 3,
    "b": 3,
}
HEADER = """
<q-th :props="props"><span class="hinted">{{ props.col.label }}<q-tooltip v-if="props.col.hint" max-width="22rem">
{{ props.col.hint }}</q-tooltip></span></q-th>
"""
LINKED = """
<q-td :props="props"><a v-if="props.row.href" class="neuron" :href="props.row.href">{{ props.value }}</a>
<span v-else>{{ props.value }}</span></q-td>
"""
SCORE = """
<q-td :props="props" class="bar-cell"><svg v-if="props.value !== null" class="bar" viewBox="0 0 100 12" preserveAspectRatio="none"
 role="img" :aria-label="props.value"><title>{{ props.value }}{{ props.row.se == null ? '' : ' ± ' + props.row.se }}</title>
<rect class="track" width="100" height="12"/><rect class="value" y="2" height="8" :width="100 * props.value"/>
<path v-if="props.row.se != null" class="whisker" vector-effect="non-scaling-stroke" :d="'M' +
 Math.max(0, 100 * (props.value - props.row.se)) + ' 6H' + Math.min(100, 100 * (props.value + props.row.se))"/>
</svg> <span class="figure" :title="props.value">{{ props.value === null ? '' : props.value.toFixed(3) }}</span></q-td>
"""
EXACT = """<q-td :props="props" :title="props.row[props.col.field]">{{ props.value }}</q-td>"""
WHY = """<q-td :props="props"><a :href="props.value">why?</a></q-td>"""
WORDS = """<q-td :props="props" class="words"><span :title="props.value">{{ props.value }}</span></q-td>"""


def neuron_table(
    frame: pl.DataFrame,
    shown: Sequence[str],
    *,
    pick: bool = False,
    page: int = 0,
    mark: str = "neurons",
    why: Mapping[str, Any] | None = None,
) -> ui.table:
    """A table of neurons, each with a link to its page; a frame needs the columns sae_key and neuron for that.

    Args:
        frame: the rows.
        shown: its columns, in the order in which they stand.
        pick: whether rows can be ticked.
        page: rows per page; 0 for all.
        mark: what tests find it by.
        why: what the link to the prompts behind a score says of the topic; None for no such link.
    """
    shown = [name for name in shown if name not in OPTIONAL or frame[name].count()]
    made = [column(name, frame[name].dtype) for name in shown]
    if why is not None:
        place = shown.index("z") + 1 if "z" in shown else len(shown)
        made.insert(place, {"name": "why", "label": "", "field": "why", "align": "left"})
    table = ui.table(
        rows=neuron_rows(frame, why), columns=made, row_key="id", selection="multiple" if pick else None,
        pagination=page or None,
    )  # fmt: skip
    table.classes("neurons w-full").props("flat dense wrap-cells=false :rows-per-page-options=[10,20,50,100,0]").mark(
        mark
    )
    table.props(f'data-testid="{mark}"')
    if "label" in shown:
        table.classes("labelled")
    table.add_slot("header-cell", HEADER)
    table.add_slot("body-cell", EXACT)
    table.add_slot("body-cell-neuron", LINKED)
    table.add_slot("body-cell-why", WHY)
    if "score" in shown:
        table.add_slot("body-cell-score", SCORE)
    for name in ("label", "fires_on", "writes", "top_tokens", "sae_id", "text", "context"):
        if name in shown:
            table.add_slot(f"body-cell-{name}", WORDS)
    return table


def column(name: str, kind: Any) -> dict[str, Any]:
    """A column as Quasar has it."""
    digits = NUMBERS.get(name)
    made = {
        "name": name,
        "label": NAMES.get(name, name),
        "field": name,
        "sortable": True,
        "hint": HINTS.get(name, ""),
        "align": "right" if kind.is_numeric() and name != "score" else "left",
        "classes": f"col-{name}",  # by which a narrow window leaves some out
        "headerClasses": f"col-{name}",
    }
    if digits is not None and name != "score":
        made[":format"] = f"value => value === null ? '' : value.toFixed({digits})"
    return made


def neuron_rows(frame: pl.DataFrame, why: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows as Quasar has them: an id, links, and lists as texts."""
    return [_row(number, row, why) for number, row in enumerate(frame.iter_rows(named=True))]


def _row(number: int, row: dict[str, Any], why: Mapping[str, Any] | None) -> dict[str, Any]:
    made = {name: words(value) if isinstance(value, list) else value for name, value in row.items()}
    made["id"] = number
    if row.get("sae_key") is not None and row.get("neuron") is not None:
        made["id"] = f"{row['sae_key']}:{row['neuron']}"
        made["href"] = neuron_link(row["sae_key"], row["neuron"])
        if why is not None:
            made["why"] = link(f"/why/{row['sae_key']}/{row['neuron']}", **why)
    return made


def words(tokens: Iterable[Any] | None) -> str:
    """Tokens side by side, in a cell."""
    return "  ".join(dict.fromkeys(str(token).strip() for token in tokens or ()))
