"""Which tokens a decoder row promotes and suppresses, through the final norm and the unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atlas.models.hooks import find_site
from atlas.models.loaded import LoadedModel
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


@torch.no_grad()
def decoder_logits(model: LoadedModel, sae: LoadedSae, neuron: int) -> Tensor | None:
    """The logits [token] that one decoder row gives alone, as `promoted_ids` ranks them; here of a plain Hugging Face model.

    Returns:
        None for an SAE at a place that does not write to the residual stream.
    """
    transformer = model.transformer
    unembedding = transformer.get_output_embeddings().weight
    row = sae.codec.decoder_rows[neuron][None].to(unembedding)
    if sae.hook_name.endswith("attn.hook_z"):
        output = find_site(transformer, sae.hook_name).module
        row = output(row) - output(torch.zeros_like(row))
    if row.shape[-1] != unembedding.shape[-1]:
        return None
    norm = last_norm(transformer, model.rows(["."])[0])
    return ((norm(row) - norm(torch.zeros_like(row))).to(unembedding.dtype) @ unembedding.T)[0].float()


def last_norm(transformer: Any, ids: Sequence[int]) -> nn.Module:
    """The norm whose output a plain Hugging Face model unembeds, found by running it; the identity when there is none."""
    given: list[Tensor] = []
    made: list[tuple[nn.Module, Tensor]] = []
    norms = [module for module in transformer.modules() if "norm" in type(module).__name__.lower()]
    handles = [transformer.get_output_embeddings().register_forward_pre_hook(lambda _, args: given.append(args[0]))]
    handles += [norm.register_forward_hook(lambda own, _, output: made.append((own, output))) for norm in norms]
    try:
        batch = torch.tensor([list(ids)], device=next(transformer.parameters()).device)
        transformer(batch, attention_mask=torch.ones_like(batch), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    wanted = given[0][:, -1]
    matching = [
        own for own, output in made if output.shape[-1] == wanted.shape[-1] and torch.equal(output[:, -1], wanted)
    ]
    return matching[-1] if matching else nn.Identity()
