"""Token ids: BOS and special tokens, rows of ids as a batch, and tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from atlas.errors import ModelError


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


def token_rows(
    tokenizer: Any, texts: Sequence[str], *, prepend_bos: bool, context: int | None = None
) -> list[list[int]]:
    """Token ids of each text, no special ones but BOS where it is asked for, cut to a context where one is given."""
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [with_bos(tokenizer, row, prepend_bos=prepend_bos)[:context] for row in ids]


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


def pad_left(tokenizer: Any, ids: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor, int]:
    """Rows of token ids padded on the left, to be gone on with; 1 where they are, 0 where a pad is; and the id of that."""
    known = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    pad = next((i for i in known if i is not None), 0)
    longest = max(map(len, ids))
    batch = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device)
    return batch, mask, int(pad)


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


def token_spans(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Ids of each text without special tokens, and where each token stands in the text."""
    if not texts:
        return [], []
    if tokenizer.is_fast:
        encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]
    ids = token_rows(tokenizer, texts, prepend_bos=False)
    spans = []
    for row in ids:  # a slow tokenizer does not say: decode prefix by prefix
        ends = [len(tokenizer.decode(row[: i + 1])) for i in range(len(row))]
        spans.append(list(zip([0, *ends], ends, strict=False)))
    return ids, spans


def token_pieces(tokenizer: Any, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> list[list[str]]:
    """What each token of each text stands for in it: joined, they are the text as far as the model read it.

    The bytes of one character may be several tokens: the first stands for it, the others for nothing. What a row has before the
    text, such as BOS, is the token's own name.

    Args:
        rows: the ids of each text as the model saw them.
    """
    ids, spans = token_spans(tokenizer, texts)
    pieces = []
    for text, row, own, places in zip(texts, rows, ids, spans, strict=True):
        before = 0 if list(row) == own[: len(row)] else 1
        found, end = list(map(str, tokenizer.convert_ids_to_tokens(list(row[:before])))), 0
        for _, last in places[: len(row) - before]:
            found.append(text[end:last])
            end = max(end, last)
        pieces.append(found)
    return pieces
