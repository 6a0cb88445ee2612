"""What a decoder row says in tokens, what ids mean as text, and rows of them as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models import LanguageModel, LoadedSae


def bos_token_id(tokenizer: Any) -> int:
    """The token put before a prompt, as TransformerLens chooses it: BOS, else EOS."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise ModelError("the tokenizer has neither a BOS nor an EOS token, which the SAE's BOS policy asks for")
    return int(found)


def with_bos(tokenizer: Any, ids: Sequence[int], *, prepend_bos: bool) -> list[int]:
    """A text's token ids as the model sees them: BOS first where the SAE wants one, unless the text begins with it."""
    if not prepend_bos:
        return list(ids)
    bos = bos_token_id(tokenizer)
    return list(ids) if list(ids[:1]) == [bos] else [bos, *ids]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that are no text: those with a name, such as BOS, and those that are only flagged, such as <|im_start|>."""
    flagged = {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return frozenset(tokenizer.all_special_ids) | flagged


def pad_rows(tokenizer: Any, ids: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Rows of token ids padded on the right, and where they are [batch, token]."""
    pad = next(iter(tokenizer.all_special_ids), 0)
    longest = max(map(len, ids))
    batch = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids], device=device)
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in ids], device=device)
    return batch, mask


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


def token_strings(tokenizer: Any, size: int) -> list[str]:
    """The first `size` tokens as text, a leading space kept; empty where the tokenizer has none."""
    known = _all_token_strings(tokenizer)
    return [*known[:size], *[""] * (size - len(known))]


@lru_cache(maxsize=1)  # a build asks twice
def _all_token_strings(tokenizer: Any) -> list[str]:
    decoded = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(decoded))))
    return [
        " " + text if piece and piece[0] == "▁" and not text.startswith(" ") else text
        for piece, text in zip(pieces, decoded, strict=True)
    ]
