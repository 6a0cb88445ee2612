"""What the methods do to the SAE's layer, token by token, without generating (method: section 6, point 2)."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import polars as pl

from atlas.evaluation.intervals import mean_interval
from atlas.evaluation.layer_level import layer_figures
from atlas.reproduction.material import Material
from atlas.steering.methods import settle_options
from atlas.steering.settings import Options

METHODS = ("clamp", "clamp-own", "clamp-plus", "weight", "swap")
ALIGNED, UNALIGNED = "held-out texts", "everyday texts"


def figures(material: Material) -> pl.DataFrame:
    """sae_id, method, texts, figure, value, low, high (95 % over texts): every figure of layerwise.LayerFigures."""
    texts = {ALIGNED: material.held_out(material.topic), UNALIGNED: list(material.texts.unaligned)}
    rows = []
    todo = [(row, method, name) for row in material.saes for method in METHODS for name in texts if texts[name]]
    for done, (row, method, name) in enumerate(todo):
        material.progress("what the methods do to the layer", done, len(todo))
        layer, options = material.layer(row["sae_key"]), settle_options(method, Options())
        found = layer_figures(material.recorded.read_as(row), layer, texts[name], method, options)
        for figure, values in asdict(found).items():
            mean = mean_interval(values[~np.isnan(values)])
            if mean is not None:
                rows.append((row["sae_id"], method, name, figure, *mean))
    material.progress("what the methods do to the layer", len(todo), len(todo))
    columns = ["sae_id", "method", "texts", "figure", "value", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def changed(material: Material) -> pl.DataFrame:
    """The number of neurons changed per token, and its standard deviation over a text's tokens."""
    names = {"changed": "neurons changed per token", "changed_deviation": "standard deviation within a text"}
    frame = material.once(figures).filter(pl.col("figure").is_in(list(names)))
    return frame.with_columns(pl.col("figure").replace_strict(names))


def reconstruction(material: Material) -> pl.DataFrame:
    """The difference in reconstruction error per token."""
    return material.once(figures).filter(pl.col("figure") == "reconstruction")


def contamination(material: Material) -> pl.DataFrame:
    """The share of the edited code that is off topic."""
    return material.once(figures).filter(pl.col("figure") == "contamination")


def say(frame: pl.DataFrame) -> str:
    """Each method on held-out texts, per SAE."""
    first = frame.filter((pl.col("texts") == ALIGNED) & (pl.col("figure") == frame["figure"][0]))
    return "on held-out texts: " + "; ".join(
        f"{sae}: " + ", ".join(f"{row['method']} {row['value']:.3g}" for row in mine.to_dicts())
        for (sae,), mine in first.group_by(["sae_id"], maintain_order=True)
    )
