"""What an atlas says of one neuron, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

BINNED = {"low": pl.Float64, "high": pl.Float64, "tokens": pl.UInt32}  # the histograms of tokens


def binned(edges: np.ndarray, counts: Sequence[int] | np.ndarray) -> pl.DataFrame:
    """A histogram as a frame, given the edges of its ranges, one more than there are counts."""
    return pl.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": counts}, schema=BINNED)


@dataclass(frozen=True)
class NeuronFrames:
    """What an atlas says of one neuron.

    Attributes:
        facts: one row: the neuron's figures, its SAE, and how the atlas was made.
        labels: source, label, quality, created_at, shown.
        samples: prompts on which it fires: kind (strongest, range, random), rank, low, high and share (of a range), prompt_id,
            act_max, act_sum, act_count, source, text; tokens and activations, null where no model was run.
        contexts: its strongest tokens with the text around them, as the build kept them.
        histogram: low, high, prompts: how many prompts it fires on at most so much.
        token_histogram: low, high, tokens: how many tokens, of the prompts whose tokens have values, it fires on so much.
        logit_histogram: low, high, tokens: how many tokens of the vocabulary get such a logit of its decoder row alone.
        written: side (promoted, suppressed), rank, token, logit; logits are null where no model was run.
        neighbours: kind (meaning, co-firing, decoder), sae_key, sae_id, neuron, cosine, support, fires_on, label.
        topics: topic, scorer, score, se, z, g, rank (of the score among the SAE's neurons).
        notes: the lists it is in: list, text, created_at.
        notices: what could not be shown or kept, and why; a line each.
    """

    facts: pl.DataFrame
    labels: pl.DataFrame
    samples: pl.DataFrame
    contexts: pl.DataFrame
    histogram: pl.DataFrame
    written: pl.DataFrame
    neighbours: pl.DataFrame
    topics: pl.DataFrame
    notes: pl.DataFrame
    notices: tuple[str, ...] = ()
    token_histogram: pl.DataFrame = field(default_factory=pl.DataFrame)
    logit_histogram: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def row(self) -> dict[str, Any]:
        """The facts."""
        return self.facts.row(0, named=True)

    @property
    def is_dead(self) -> bool:
        """Whether it fired on no reference prompt."""
        return not self.row["support"]

    @property
    def previous(self) -> int | None:
        """The number of the neuron before it."""
        return self.row["neuron"] - 1 if self.row["neuron"] else None

    @property
    def next(self) -> int | None:
        """The number of the neuron behind it."""
        return self.row["neuron"] + 1 if self.row["neuron"] + 1 < self.row["d_sae"] else None
