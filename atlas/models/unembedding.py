"""Which tokens a decoder row promotes, through the final norm and the unembedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atlas.models.loading import LanguageModel
from atlas.models.saes import LoadedSae
from atlas.models.tokens import token_strings


def promoted_tokens(model: LanguageModel, sae: LoadedSae, *, count: int = 10) -> list[list[str]]:
    """Per neuron the `count` tokens its decoder row promotes most, as text; empty lists where it does not write."""
    ids = promoted_ids(model, sae, count=count)
    if ids is None:
        return [[] for _ in range(sae.codec.d_sae)]
    table = token_strings(model.tokenizer, model.bridge.original_model.get_output_embeddings().weight.shape[0])
    return [[table[i] for i in best] for best in ids.tolist()]


@torch.no_grad()
def promoted_ids(
    model: LanguageModel, sae: LoadedSae, *, count: int = 10, neurons: Tensor | None = None, chunk: int = 1024
) -> Tensor | None:
    """The `count` tokens that decoder rows promote most, through final norm (without its bias) and unembedding.

    A row at hook_z goes through the layer's output projection first.

    Args:
        neurons: which rows [n]; None for all.

    Returns:
        Token ids [n, count], best first; None for an SAE at a place that does not write to the residual stream.
    """
    rows = write_direction(model.bridge, sae)
    if rows is None:
        return None
    unembedding = model.bridge.original_model.get_output_embeddings().weight
    norm = final_norm(model.bridge)
    zero = norm(torch.zeros_like(rows[:1]))
    chosen = rows if neurons is None else rows[neurons.to(rows.device)]
    parts = []
    for part in chosen.split(chunk):
        logits = (norm(part) - zero).to(unembedding.dtype) @ unembedding.T
        parts.append(logits.topk(min(count, logits.shape[-1])).indices)
    return torch.cat(parts)


def write_direction(bridge: Any, sae: LoadedSae) -> Tensor | None:
    """Decoder rows as they reach the residual stream [d_sae, d_model]; None where they do not."""
    rows = sae.codec.decoder_rows.to(next(bridge.original_model.parameters()))
    if sae.hook_name.endswith("attn.hook_z"):
        layer = int(sae.hook_name.split(".")[1])
        output = bridge.blocks[layer].attn.W_O  # [n_heads, d_head, d_model]
        rows = rows @ output.reshape(-1, output.shape[-1]).to(rows)
    return rows if rows.shape[-1] == bridge.cfg.d_model else None


def final_norm(bridge: Any) -> nn.Module:
    """The norm before the unembedding; the identity when the model has none."""
    norm = getattr(bridge, "ln_final", None)
    return getattr(norm, "original_component", norm) if norm is not None else nn.Identity()
