"""What the methods do to the SAE's layer, token by token, without generating (method: section 6, point 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from atlas.evaluation.intervals import mean_interval
from atlas.evaluation.layer_level import layer_figures
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs
from atlas.steering.methods import settle_options
from atlas.steering.settings import Options

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


METHODS = ("clamp", "clamp-own", "clamp-plus", "weight", "swap")
ALIGNED, UNALIGNED = "held-out texts", "everyday texts"


def figures(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, method, texts, figure, value, low, high (95 % over texts): every figure of LayerFigures."""
    texts = {ALIGNED: inputs.held_out(inputs.topic), UNALIGNED: list(inputs.texts.unaligned)}
    rows = []
    todo = [(row, method, name) for row in inputs.saes for method in METHODS for name in texts if texts[name]]
    for done, (row, method, name) in enumerate(todo):
        inputs.progress("what the methods do to the layer", done, len(todo))
        sae, options = inputs.steered_sae(row["sae_key"]), settle_options(method, Options())
        found = layer_figures(inputs.recorded.read_as(row), sae, texts[name], method, options)
        for figure, values in asdict(found).items():
            mean = mean_interval(values[~np.isnan(values)])
            if mean is not None:
                rows.append((row["sae_id"], method, name, figure, *mean))
    inputs.progress("what the methods do to the layer", len(todo), len(todo))
    columns = ["sae_id", "method", "texts", "figure", "value", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def changed(inputs: ExhibitInputs) -> pl.DataFrame:
    """The number of neurons changed per token, and its standard deviation over a text's tokens."""
    names = {"changed": "neurons changed per token", "changed_deviation": "standard deviation within a text"}
    frame = inputs.once(figures).filter(pl.col("figure").is_in(list(names)))
    return frame.with_columns(pl.col("figure").replace_strict(names))


def reconstruction(inputs: ExhibitInputs) -> pl.DataFrame:
    """The difference in reconstruction error per token."""
    return inputs.once(figures).filter(pl.col("figure") == "reconstruction")


def contamination(inputs: ExhibitInputs) -> pl.DataFrame:
    """The share of the edited code that is off topic."""
    return inputs.once(figures).filter(pl.col("figure") == "contamination")


def say(frame: pl.DataFrame) -> str:
    """Each method on held-out texts, per SAE."""
    first = frame.filter((pl.col("texts") == ALIGNED) & (pl.col("figure") == frame["figure"][0]))
    return "on held-out texts: " + "; ".join(
        f"{sae}: " + ", ".join(f"{row['method']} {row['value']:.3g}" for row in mine.to_dicts())
        for (sae,), mine in first.group_by(["sae_id"], maintain_order=True)
    )


def _draw_layer(label: str, scale: str = "linear") -> Callable[[pl.DataFrame], Picture]:
    def draw(frame: pl.DataFrame) -> Picture:
        named = frame
        if frame["figure"].n_unique() > 1:
            named = frame.with_columns(sae_id=pl.format("{}\n{}", "sae_id", "figure"))
        return plots.dots(named, row="method", series="texts", panel="sae_id", label=label, scale=scale)

    return draw


EXHIBITS = {
    "figure_5": Exhibit(
        "Neurons changed per token",
        "How many neurons of a token's code a method changes, and how much that varies within a text (standard deviation "
        "over its tokens). Mean and 95 % interval over texts.",
        changed,
        say,
        _draw_layer("neurons"),
    ),
    "figure_6": Exhibit(
        "Difference in reconstruction error",
        "||x' - x||^2 - ||decode(a) - x||^2 per token, reconstruction error not kept. Mean and 95 % interval over texts; "
        "0 is as good as the SAE's own reconstruction. Logarithmic away from 0.",
        reconstruction,
        say,
        _draw_layer("squared activation", "symlog"),
    ),
    "figure_13": Exhibit(
        "Contamination",
        "Share of the edited code that is off topic, on held-out and on everyday texts. Mean and 95 % interval over texts; "
        "lower is purer.",
        contamination,
        say,
        _draw_layer("contamination"),
    ),
}
