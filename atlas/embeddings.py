"""Prompts -> sentence embeddings, as frames for the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.errors import StoreError
from atlas.models import Encoder


def embed_frame(encoder: Encoder, texts: Sequence[str]) -> pl.DataFrame:
    """A frame with one column `vector` (list of float32, length 1), a row per text."""
    return pl.DataFrame({"vector": pl.Series(encoder.embed(texts)).arr.to_list()})


def check_encoder(encoder: Encoder, recorded: dict[str, object]) -> None:
    """Raise StoreError when an atlas's row says that its texts were embedded by another encoder."""
    if encoder.encoder_hash != recorded["encoder_hash"]:
        raise StoreError(
            f"encoder {encoder.name} ({encoder.source}) is not the one this atlas was built with, "
            f"{recorded['encoder']}: name that one with --encoder"
        )
