"""The neurons that are closest to texts, by their vectors: one inner product each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from atlas.errors import AtlasError, StoreError
from atlas.meaning.neuron_vectors import SUPPORT
from atlas.store.session import Asks


def search_topics(
    session: Asks, topics: Mapping[str, Sequence[Sequence[float]]], n: int, *, sae: str | None, by: str
) -> pl.DataFrame:
    """The n closest neurons per topic and SAE, best first: z, score and g by equations 13 and 14 of the method.

    Args:
        session: an atlas that has neuron vectors.
        topics: name -> the embeddings of its texts.
        n: neurons per SAE.
        sae: key of the SAE; None for all.
        by: "z" or "score".

    Raises:
        AtlasError: no neuron fired on enough prompts.
        StoreError: a vector in the file is no vector.
    """
    frames = []
    for name, vectors in topics.items():
        mean = np.mean(np.asarray(vectors, dtype=np.float64), axis=0).astype(np.float32)
        settings = {"vector": mean.tolist(), "texts": len(vectors), "n": n, "sae": sae, "by": by}
        frames.append(session.ask("search", topic=name, **settings))
    found = pl.concat(frames)
    if found.is_empty():
        raise AtlasError(
            f"no neuron fired on {SUPPORT} or more prompts, so none can be found: add prompts to the atlas"
        )
    if not found.select(pl.all_horizontal(pl.col("z", "score", "g").is_nan().any().not_())).item():
        raise StoreError(
            "the atlas is damaged (a neuron's vector is no number): build it again, or get the file again from where it came"
        )
    return found
