"""Which neurons steer, in which order: rules over a neuron's signals for a topic.

A rule is one entry in RULES. Methods that use the best neurons take the chosen ones in the rule's order; methods that weigh
every neuron (swap, weight) weigh them by the rule's value, and one that is not chosen counts at most as the median neuron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from atlas.errors import AtlasError, UnknownName

if TYPE_CHECKING:
    import numpy as np

DEFAULT_RULE = "combined"  # what evaluation showed to be best; the paper's is "score"
REMARKABLE = -2  # z of a neuron that is closer to the topic than to random topics


@dataclass(frozen=True)
class Rule:
    """One rule, over the columns score, se, z, centroid_z, auroc, output and density of a topic's scored neurons.

    Attributes:
        help: what it is, in a line.
        value: what the chosen are ordered by, in [0, 1], 1 is best; null is not chosen.
        choose: which are chosen; null is not chosen.
        needs: columns that must not be all null.
    """

    help: str
    value: pl.Expr
    choose: pl.Expr
    needs: tuple[str, ...] = ()


def _unit(value: pl.Expr) -> pl.Expr:
    """Mapped to [0, 1]."""
    return (value - value.min()) / (value.max() - value.min())


_EVERY = pl.lit(value=True)


def _standard(value: pl.Expr) -> pl.Expr:
    """In standard deviations from its mean."""
    return (value - value.mean()) / value.std()


_BY_SCORE, _BY_Z = pl.col("score"), _unit(-pl.col("z"))
RULES = {
    "score": Rule("every scored neuron, by score (the paper)", _BY_SCORE, _EVERY),
    "z": Rule("every scored neuron, by z: closer to the topic than to random topics", _BY_Z, _EVERY, ("z",)),
    "remarkable": Rule(f"z at most {REMARKABLE}, by score", _BY_SCORE, pl.col("z") <= REMARKABLE, ("z",)),
    "writes": Rule(
        f"z at most {REMARKABLE} and output score in the upper half, by z",
        _BY_Z,
        (pl.col("z") <= REMARKABLE) & (pl.col("output") >= pl.col("output").median()),
        ("z", "output"),
    ),
    "combined": Rule(
        f"z at most {REMARKABLE}, by contrast AUROC: near the topic, and active on its texts",
        pl.col("auroc"),
        pl.col("z") <= REMARKABLE,
        ("z", "auroc"),
    ),
    "centroid": Rule(
        "every scored neuron, by z of its vector (scorer centroid)",
        _unit(-pl.col("centroid_z")),
        _EVERY,
        ("centroid_z",),
    ),
    "centroid-combined": Rule(
        f"z of its vector at most {REMARKABLE}, by contrast AUROC",
        pl.col("auroc"),
        pl.col("centroid_z") <= REMARKABLE,
        ("centroid_z", "auroc"),
    ),
    "centroid-joint": Rule(
        "every scored neuron, by z of its vector and contrast AUROC, standardised and added",
        _unit(_standard(pl.col("auroc")) - _standard(pl.col("centroid_z"))),
        _EVERY,
        ("centroid_z", "auroc"),
    ),
}
SCORERS_OF = {"z": "distance", "centroid_z": "centroid", "output": "output", "auroc": "contrast"}


def select_neurons(frame: pl.DataFrame, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """The rule's values, 0 where there is no score [d_sae], and the chosen neurons, best first.

    Args:
        frame: columns neuron, score, se, z, centroid_z, auroc, output and density of every neuron, in order; score may be null.
        rule: key of RULES.

    Raises:
        AtlasError: a signal the rule needs is not there, or it leaves no neuron.
    """
    import numpy as np

    if rule not in RULES:
        raise UnknownName("selection rule", rule, RULES)
    scored = frame.filter(pl.col("score").is_not_null())
    for column in RULES[rule].needs:
        if scored[column].null_count() == scored.height:
            scorer = SCORERS_OF[column]
            raise AtlasError(
                f"selection rule {rule!r} needs {column}: run `atlas score` "
                + ("with --null-topics 64" if scorer == "distance" else f"--scorer {scorer}")
                + " for the topic first, or use another rule, such as --select score"
            )
    valued = scored.with_columns(value=RULES[rule].value, chosen=RULES[rule].choose & RULES[rule].value.is_not_null())
    chosen = valued.filter(pl.col("chosen").fill_null(value=False))
    if chosen.is_empty():
        raise AtlasError(f"selection rule {rule!r} leaves no neuron of {scored.height}: use another rule")
    best = chosen.sort("value", "neuron", descending=[True, False])["neuron"].to_numpy().astype(np.int64)
    values = np.zeros(frame.height, dtype=np.float32)
    values[valued["neuron"].to_numpy()] = valued["value"].fill_null(0).to_numpy()
    rest = np.setdiff1d(valued["neuron"].to_numpy(), best)
    values[rest] = np.minimum(values[rest], np.float32(valued["value"].median()))  # type: ignore[arg-type]
    return values, best
