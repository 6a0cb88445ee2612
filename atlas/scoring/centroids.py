"""Scorer centroid: topics as mean embeddings, and what random topics are like for neuron vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.meaning.neuron_vectors import SUPPORT, spreads_about
from atlas.store.contents import stack_vectors
from atlas.store.session import Asks

CLOSED = {"neuron": pl.UInt32, "mean": pl.Float64, "spread": pl.Float64}  # the frame `closed_null`


def topic_means(session: Asks, topic_ids: Sequence[int]) -> pl.DataFrame:
    """The frame `means`: a topic's mean embedding, and the mean of its texts' squared lengths (method: equation 13)."""
    texts = session.ask("topic_vectors", topic_ids=list(topic_ids))
    ids, rows = texts["topic_id"].to_numpy(), stack_vectors(texts["vector"]).astype(np.float64)
    means = {topic_id: rows[ids == topic_id] for topic_id in topic_ids}
    return pl.DataFrame(
        {
            "topic_id": pl.Series(list(means), dtype=pl.UInt32),
            "vector": pl.Series(
                np.stack([own.mean(axis=0) for own in means.values()]).astype(np.float32)
            ).arr.to_list(),
            "square": [float((own**2).sum(axis=1).mean()) for own in means.values()],
        }
    )


def closed_null(session: Asks, sae_key: int, min_support: int | None) -> pl.DataFrame:
    """The frame `closed_null` of an SAE: what random topics are like for its neurons (method: equation 14).

    Args:
        session: the atlas.
        sae_key: the SAE.
        min_support: support from which neurons are eligible; None for another scorer, which gets an empty frame.
    """
    if min_support is None:
        return pl.DataFrame(schema=CLOSED)
    figures = session.ask("vector_figures", sae_key=sae_key)
    eligible = figures["support"] >= min_support
    spread = figures["spread"] if min_support == SUPPORT else spreads_about(session, sae_key, eligible.to_numpy())
    mean = figures["expected_g"].cast(pl.Float64) - figures.filter(eligible)["expected_g"].cast(pl.Float64).mean()
    return figures.select("neuron", mean=mean, spread=pl.Series(spread, dtype=pl.Float64))
