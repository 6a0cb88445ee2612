"""Texts -> sentence embeddings of length 1, as frames for the store, and how many texts the encoder cuts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.errors import ModelError
from atlas.models.encoders import Encoder

TOKENIZED_TEXTS = 1024  # at a time
OFF = 1e-2  # how far from 1 a length may be: encoders in 16-bit numbers too


def embed_frame(encoder: Encoder, texts: Sequence[str]) -> pl.DataFrame:
    """A frame with one column `vector` (list of float32, length 1), a row per text; ModelError as `embed_texts`."""
    return pl.DataFrame({"vector": pl.Series(embed_texts(encoder, texts)).arr.to_list()})


def embed_texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Embeddings [text, dimension]; ModelError when the encoder gives a text one that is not of length 1, such as NaN or 0."""
    vectors = encoder.embed(texts)
    bad = np.flatnonzero(~has_length(vectors))
    if len(bad):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ModelError(
            f"sentence encoder {encoder.name} gives no embedding of {texts[bad[0]][:60]!r}{more} (its length is 0 or no "
            "number): leave such texts out, or use another encoder"
        )
    return vectors


def has_length(vectors: np.ndarray) -> np.ndarray:
    """Which vectors [text, dimension] are of length 1; those with NaN are not."""
    return np.asarray(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=-1) - 1) < OFF)


def count_cut(encoder: Encoder, texts: Sequence[str]) -> int:
    """How many texts are longer than the encoder reads; it goes by the beginning of those. 0 for static encoders."""
    limit = token_limit(encoder)
    if limit is None:
        return 0
    count = 0
    for start in range(0, len(texts), TOKENIZED_TEXTS):
        part = list(texts[start : start + TOKENIZED_TEXTS])
        ids = encoder.model.tokenizer(part, truncation=False, verbose=False)["input_ids"]
        count += sum(len(row) > limit for row in ids)
    return count


def token_limit(encoder: Encoder) -> int | None:
    """The longest text that the encoder reads whole, in tokens of its own; None where there is no limit."""
    limit = getattr(encoder.model, "max_seq_length", None)
    if limit is None or not math.isfinite(limit) or not callable(getattr(encoder.model, "tokenizer", None)):
        return None
    return int(limit)
