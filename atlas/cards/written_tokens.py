"""The tokens that a neuron's decoder row promotes and suppresses most, with their logits."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from atlas.models.agreement import unhooked_twin
from atlas.models.loaded import LoadedModel
from atlas.models.saes import LoadedSae
from atlas.models.tokens import token_strings
from atlas.models.unembedding import decoder_logits

WRITTEN = 10  # tokens of each side
SCHEMA = {"side": pl.String, "rank": pl.UInt32, "token": pl.String, "logit": pl.Float32}


def measure_token_logits(model: LoadedModel, sae: LoadedSae, neuron: int) -> pl.DataFrame:
    """The tokens of the largest and of the smallest logits, where the decoder row alone reaches the final norm.

    Returns:
        Rows for `token_logits` without sae_key and neuron: side, rank, token, logit; none where the SAE does not write to the
        residual stream.
    """
    logits = decoder_logits(replace(model, transformer=unhooked_twin(model.transformer)), sae, neuron)
    if logits is None:
        return pl.DataFrame(schema=SCHEMA)
    names = token_strings(model.tokenizer, len(logits))
    count = min(WRITTEN, len(logits))
    frames = []
    for side, largest in (("promoted", True), ("suppressed", False)):
        values, ids = logits.topk(count, largest=largest)
        own = {"rank": range(1, count + 1), "token": [names[i] for i in ids.tolist()], "logit": values.tolist()}
        frames.append(pl.DataFrame({"side": [side] * count, **own}, schema=SCHEMA))
    return pl.concat(frames)
