"""Prompts -> sparse activation summaries: one pass of the language model and its SAEs over a batch of prompts.

Only entries of neurons that fired leave a batch. Special tokens are left out by id, never by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atlas.models.codec import Codec
from atlas.models.hooks import catching, require_finite, require_ran
from atlas.models.loading import LanguageModel
from atlas.models.quiet import no_notice_of_pads
from atlas.models.saes import LoadedSae
from atlas.models.tokens import pad_rows, token_rows

CHUNK_TOKENS = 128  # encoded at once: their dense activations stay in the processor's cache
CHUNK_VALUES = 1 << 25  # dense activations at once on an accelerator, which wants large pieces: 128 MiB in float32


@dataclass(frozen=True)
class Entries:
    """The tokens on which neurons fired, sorted by prompt and token: parallel arrays [entry].

    Attributes:
        prompt: row of the batch.
        position: token position as the model saw it, BOS counted.
        neuron: the neuron.
        value: its activation, as an absolute value.
    """

    prompt: np.ndarray
    position: np.ndarray
    neuron: np.ndarray
    value: np.ndarray


def tokenize(model: LanguageModel, texts: Sequence[str], *, prepend_bos: bool) -> tuple[list[list[int]], list[bool]]:
    """Token ids of each text as the model sees it, and whether it was cut to the context."""
    rows = token_rows(model.tokenizer, texts, prepend_bos=prepend_bos)
    return [row[: model.context_size] for row in rows], [len(row) > model.context_size for row in rows]


@torch.no_grad()
def run_model(model: LanguageModel, ids: Sequence[Sequence[int]], hook_names: Sequence[str]) -> dict[str, Tensor]:
    """The activations at some hooks: hook name -> [batch, token, ...]; shorter rows are padded on the right.

    Raises:
        ModelError: a hook never ran.
    """
    batch, _ = pad_rows(model.tokenizer, ids, next(model.bridge.parameters()).device)
    with no_notice_of_pads(), catching(model.plain if model.reads_plain else model.bridge, hook_names) as caught:
        if model.reads_plain:
            model.plain(batch, attention_mask=torch.ones_like(batch), use_cache=False)
        else:
            model.bridge(batch, return_type="logits", stop_at_layer=_last_layer(hook_names))
    require_ran(caught, hook_names)
    return caught


def encode_entries(sae: LoadedSae, x: Tensor, ids: Sequence[Sequence[int]], special: frozenset[int]) -> Entries:
    """Encode x [batch, token, ...] where the tokens count, and keep what fired."""
    keep = torch.zeros(x.shape[:2], dtype=torch.bool)
    for row, given in enumerate(ids):
        keep[row, : len(given)] = torch.tensor([token not in special for token in given], dtype=torch.bool)
    return entries_at(sae.codec, x, keep)


def entries_at(codec: Codec, x: Tensor, keep: Tensor) -> Entries:
    """Encode x [batch, token, ...] at the tokens of `keep` [batch, token], and keep what fired."""
    prompts, positions = keep.cpu().nonzero(as_tuple=True)
    flat = x[prompts.to(x.device), positions.to(x.device)]
    require_finite(flat, codec.hook_name)
    parts = []
    step = CHUNK_TOKENS if flat.device.type == "cpu" else max(1, CHUNK_VALUES // codec.d_sae)
    for start in range(0, len(flat), step):
        acts = codec.encode(flat[start : start + step]).acts
        tokens, neurons = acts.nonzero(as_tuple=True)
        values = acts[tokens, neurons].abs().float()
        require_finite(values.to(acts.dtype), codec.hook_name)
        parts.append((tokens.cpu().numpy() + start, neurons.cpu().numpy(), values.cpu().numpy()))
    if not parts:
        parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    token, neuron, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Entries(prompts.numpy()[token], positions.numpy()[token], neuron, value)


def summarise(entries: Entries, prompt_ids: np.ndarray, d_sae: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows for `activations` and `prompt_totals`, without their sae_key; every prompt has its totals."""
    key = entries.prompt.astype(np.int64) * d_sae + entries.neuron
    order = np.argsort(key, kind="stable")
    key, value = key[order], entries.value[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    prompt, neuron = np.divmod(key[starts], d_sae)
    counts = np.diff(starts, append=len(key))
    sums = np.add.reduceat(value, starts) if len(starts) else value
    peaks = np.maximum.reduceat(value, starts) if len(starts) else value
    rows = pl.DataFrame(
        {
            "neuron": neuron.astype(np.uint32),
            "prompt_id": prompt_ids[prompt].astype(np.uint32),
            "act_sum": sums.astype(np.float32),
            "act_max": peaks.astype(np.float32),
            "act_count": counts.astype(np.uint32),
        }
    )
    columns = {"sum_total": "act_sum", "max_total": "act_max", "count_total": "act_count"}
    totals = {
        total: np.bincount(prompt, weights=rows[column].to_numpy(), minlength=len(prompt_ids))
        for total, column in columns.items()
    }
    return rows, pl.DataFrame({"prompt_id": prompt_ids.astype(np.uint32), **totals})


def _last_layer(hook_names: Sequence[str]) -> int | None:
    """The layer after which the model may stop; None when a hook is not in a layer."""
    layers = [int(name.split(".")[1]) + 1 if name.startswith("blocks.") else None for name in hook_names]
    return None if None in layers else max(layer for layer in layers if layer is not None)
