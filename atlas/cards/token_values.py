"""A neuron's activation on every token of a few prompts: one run of the model over them, kept in the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atlas.cards.frames import BINNED, binned
from atlas.errors import AtlasError
from atlas.models.agreement import unhooked_twin
from atlas.models.codec import Codec
from atlas.models.hooks import catch_activations
from atlas.models.loaded import LoadedModel
from atlas.models.tokens import pad_rows, special_ids, token_pieces

BATCH_TOKENS = 2048  # read at once
SCHEMA: dict[str, Any] = {"prompt_id": pl.UInt32, "tokens": pl.List(pl.String), "activations": pl.List(pl.Float32)}


def measure_token_values(model: LoadedModel, codec: Codec, neuron: int, prompts: pl.DataFrame) -> pl.DataFrame:
    """A neuron's activation on every token of some prompts.

    Args:
        model: the language model as the SAE reads it. It may be in use meanwhile, and steered.
        codec: the SAE.
        neuron: the neuron.
        prompts: prompt_id and text.

    Returns:
        Rows for `token_values` without sae_key and neuron: prompt_id, tokens, activations (null for special tokens).

    Raises:
        AtlasError: a text has no token.
        ModelError: the model has no such hook, or its activations are not finite.
    """
    if prompts.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    texts = prompts["text"].to_list()
    rows = model.rows(texts)
    if not all(rows):
        raise AtlasError("a text has no token: give some text")
    pieces = token_pieces(model.tokenizer, texts, rows)
    special = special_ids(model.tokenizer)
    twin = unhooked_twin(model.transformer)
    device = next(twin.parameters()).device
    values: dict[int, list[float | None]] = {}
    for batch in batches(rows):
        ids, mask = pad_rows(model.tokenizer, [rows[place] for place in batch], device)
        x = catch_activations(twin, ids, mask, [codec.hook_name])[codec.hook_name]
        for row, place in enumerate(batch):
            values[place] = _values(codec, x[row, : len(rows[place])], neuron, [i in special for i in rows[place]])
    found = {"prompt_id": prompts["prompt_id"], "tokens": pieces, "activations": [values[i] for i in range(len(rows))]}
    return pl.DataFrame(found, schema=SCHEMA)


def token_histogram(kept: pl.DataFrame, highest: float, bins: int) -> pl.DataFrame:
    """How many tokens have an activation in each of equal ranges from 0 to the largest, those of 0 left out.

    Args:
        kept: prompts token by token, as `measure_token_values` gives them.
        highest: the neuron's largest activation.
        bins: how many ranges.

    Returns:
        low, high, tokens; no row where no token is known.
    """
    values = kept["activations"].explode().drop_nulls().to_numpy() if kept.height else np.zeros(0)
    values = values[values > 0]
    if not len(values):
        return pl.DataFrame(schema=BINNED)
    top = max(highest, float(values.max()))  # another machine's model may go a little beyond
    counts, edges = np.histogram(values, bins=bins, range=(0, top))
    return binned(edges, counts)


def batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of rows that go through the model together: alike in length, and not too many tokens with their pads."""
    found: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if found and (len(found[-1]) + 1) * len(rows[place]) <= BATCH_TOKENS:
            found[-1].append(place)
        else:
            found.append([place])
    return found


@torch.no_grad()
def _values(codec: Codec, x: Tensor, neuron: int, special: Sequence[bool]) -> list[float | None]:
    """The values of a neuron on the tokens of x [token, ...]; None for special ones."""
    acts = codec.encode(x).acts[:, neuron].abs().float().tolist()
    return [None if skipped else value for value, skipped in zip(acts, special, strict=True)]
