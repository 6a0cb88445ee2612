"""Which neurons steer: rules over a neuron's signals for a topic.

A rule is one entry in RULES. Methods that use the best neurons take the chosen ones by score; for methods that weigh every
neuron (swap, weight) a neuron that is not chosen counts at most as the median neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import AtlasError, UnknownName


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        choose: over the columns score, se, z, auroc, output and density of a topic's scored neurons; null is not chosen.
        needs: columns that must not be all null.
        help: what it is, in a line.
    """

    choose: pl.Expr
    needs: tuple[str, ...]
    help: str


RULES = {
    "score": Rule(pl.lit(value=True), (), "every neuron that has a score"),
    "remarkable": Rule(pl.col("z") <= -2, ("z",), "z at most -2: closer to the topic than to random topics"),
    "writes": Rule(
        pl.col("output") >= pl.col("output").median(),
        ("output",),
        "output score in the upper half: raising the neuron raises what it writes",
    ),
    "combined": Rule(
        (pl.col("z") <= -2) & (pl.col("output") >= pl.col("output").median()),
        ("z", "output"),
        "both of these",
    ),
}
SCORERS_OF = {"z": "distance", "output": "output"}


def select_neurons(frame: pl.DataFrame, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores with 0 for NULL [d_sae], and the chosen neurons, best first.

    Args:
        frame: columns neuron, score, se, z, auroc, output and density of every neuron, in order; score may be null.
        rule: key of RULES.

    Raises:
        AtlasError: a signal the rule needs is not there, or it leaves no neuron.
    """
    if rule not in RULES:
        raise UnknownName("selection rule", rule, RULES)
    scored = frame.filter(pl.col("score").is_not_null())
    for column in RULES[rule].needs:
        if scored[column].null_count() == scored.height:
            scorer = SCORERS_OF[column]
            raise AtlasError(
                f"selection rule {rule!r} needs {column}: run `atlas score` "
                + ("with --null-topics 64" if scorer == "distance" else f"--scorer {scorer}")
                + " for the topic first"
            )
    chosen = scored.filter(RULES[rule].choose.fill_null(value=False))
    if chosen.is_empty():
        raise AtlasError(f"selection rule {rule!r} leaves no neuron of {scored.height}: use another rule")
    best = chosen.sort("score", "neuron", descending=[True, False])["neuron"].to_numpy().astype(np.int64)
    scores = frame["score"].fill_null(0).to_numpy().astype(np.float32)
    if rule != "score":
        rest = np.setdiff1d(np.arange(len(scores)), best)
        scores[rest] = np.minimum(scores[rest], np.float32(np.median(scored["score"].to_numpy())))
    return scores, best
