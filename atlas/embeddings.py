"""Prompts -> sentence embeddings, as frames for the store."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from atlas.models import Encoder


def embed_frame(encoder: Encoder, texts: Sequence[str]) -> pl.DataFrame:
    """A frame with one column `vector` (list of float32, length 1), a row per text."""
    return pl.DataFrame({"vector": pl.Series(encoder.embed(texts)).arr.to_list()})
