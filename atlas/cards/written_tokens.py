"""What a neuron's decoder row writes: the tokens that it promotes and suppresses most, and how all logits are spread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from atlas.cards.frames import BINNED, binned
from atlas.models.agreement import unhooked_twin
from atlas.models.loaded import LoadedModel
from atlas.models.saes import LoadedSae
from atlas.models.tokens import token_strings
from atlas.models.unembedding import decoder_logits

WRITTEN = 10  # tokens of each side
BINS = 50  # of the histogram
SCHEMA = {"side": pl.String, "rank": pl.UInt32, "token": pl.String, "logit": pl.Float32}
SPREAD: dict[str, Any] = {"low": pl.Float32, "high": pl.Float32, "counts": pl.List(pl.UInt32)}


class Written(NamedTuple):
    """What a decoder row writes, as rows of tables without sae_key and neuron.

    Attributes:
        tokens: of `token_logits`: side, rank, token, logit.
        spread: of `logit_histograms`: low, high, counts.
    """

    tokens: pl.DataFrame
    spread: pl.DataFrame


def measure_token_logits(model: LoadedModel, sae: LoadedSae, neuron: int) -> Written:
    """The tokens of the largest and of the smallest logits, where the decoder row alone reaches the final norm, and all of them.

    Both are empty where the SAE does not write to the residual stream.
    """
    logits = decoder_logits(replace(model, transformer=unhooked_twin(model.transformer)), sae, neuron)
    if logits is None:
        return Written(pl.DataFrame(schema=SCHEMA), pl.DataFrame(schema=SPREAD))
    names = token_strings(model.tokenizer, len(logits))
    count = min(WRITTEN, len(logits))
    frames = []
    for side, largest in (("promoted", True), ("suppressed", False)):
        values, ids = logits.topk(count, largest=largest)
        own = {"rank": range(1, count + 1), "token": [names[i] for i in ids.tolist()], "logit": values.tolist()}
        frames.append(pl.DataFrame({"side": [side] * count, **own}, schema=SCHEMA))
    return Written(pl.concat(frames), spread_of(logits.cpu().numpy()))


def spread_of(logits: np.ndarray) -> pl.DataFrame:
    """A row of `logit_histograms` for logits [token]: BINS equal ranges; one where all are the same."""
    low, high = float(logits.min()), float(logits.max())
    counts = np.histogram(logits, bins=BINS if high > low else 1, range=(low, high) if high > low else None)[0]
    return pl.DataFrame({"low": [low], "high": [high], "counts": [counts.tolist()]}, schema=SPREAD)


def bins_of(spread: pl.DataFrame) -> pl.DataFrame:
    """The ranges of a row of `logit_histograms`: low, high, tokens; none of no row."""
    if spread.is_empty():
        return pl.DataFrame(schema=BINNED)
    low, high, counts = spread.row(0)
    return binned(np.linspace(low, high, len(counts) + 1), counts)
