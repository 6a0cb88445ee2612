"""Scorer centroid: topics as mean embeddings, compared with neurons by their vectors (method: section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from atlas.meaning.neuron_vectors import SUPPORT, spreads_about
from atlas.meaning.vector_products import VectorProducts, multiply_vectors
from atlas.scoring.config import ScoringConfig
from atlas.scoring.resolution import resolution
from atlas.store.contents import stack_vectors
from atlas.store.session import Asks


@dataclass(frozen=True)
class TopicMeans:
    """Topics, as far as their texts' embeddings go into g (method: equation 13).

    Attributes:
        topic_ids: the topics.
        vectors: their mean embeddings [topic, dimension], 32-bit numbers.
        squares: the means of their texts' squared lengths.
        texts: how many texts they have.
    """

    topic_ids: list[int]
    vectors: np.ndarray
    squares: np.ndarray
    texts: np.ndarray


def topic_means(session: Asks, topic_ids: Sequence[int]) -> TopicMeans:
    """Topics of the atlas, from the embeddings of their texts."""
    found = session.ask("topic_vectors", topic_ids=list(topic_ids))
    ids, rows = found["topic_id"].to_numpy(), stack_vectors(found["vector"]).astype(np.float64)
    own = [rows[ids == topic_id] for topic_id in topic_ids]
    vectors = np.stack([texts.mean(axis=0) for texts in own]).astype(np.float32)
    squares = np.array([(texts**2).sum(axis=1).mean() for texts in own])
    return TopicMeans(list(topic_ids), vectors, squares, np.array([len(texts) for texts in own]))


def score_by_vectors(
    session: Asks, topics: TopicMeans, sae_key: int, config: ScoringConfig
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """g, score and z of every neuron of an SAE for each topic (method: equations 13 and 14).

    Returns:
        What sql/scoring/score_ranges.sql says of other scorers' figures, and the figures: topic_id, neuron, g, score, z.
    """
    [own] = multiply_vectors(session, [sae_key], topics.vectors)
    eligible = own.support[own.neurons] >= config.min_support
    spread, off = own.spread, own.expected_g
    if eligible.any():
        spread = spread if config.min_support == SUPPORT else spreads_about(session, sae_key, eligible)
        off = off - off[eligible].mean()
    ranges, frames = [], []
    for row, topic_id in enumerate(topics.topic_ids):
        g = own.square + topics.squares[row] - 2 * own.products[row].astype(np.float64)
        known = g[eligible]
        lowest, highest = (float(known.min()), float(known.max())) if len(known) else (np.nan, np.nan)
        finite = bool(np.isfinite(g).all())
        ranges.append(
            {"topic_id": topic_id, "eligible": len(known), "lowest": lowest, "highest": highest, "finite": finite}
        )
        score = np.full(len(g), np.nan)
        z = np.full(len(g), np.nan)
        if highest > lowest:
            score[eligible] = 1 - (known - lowest) / (highest - lowest)
            sd = 2 * spread / np.sqrt(topics.texts[row])
            compared = eligible & (sd > resolution(config, highest))
            z[compared] = (g - known.mean() - off)[compared] / sd[compared]
        frames.append(_rows(own, topic_id, g, score, z))
    return ranges, pl.concat(frames)


def _rows(own: VectorProducts, topic_id: int, *figures: np.ndarray) -> pl.DataFrame:
    """A row per neuron of the SAE, null where it has no vector, or no score."""
    columns = {}
    for name, figure in zip(("g", "score", "z"), figures, strict=True):
        values = np.full(len(own.support), np.nan)
        values[own.neurons] = figure
        columns[name] = pl.Series(values, nan_to_null=True)
    neurons = pl.Series(np.arange(len(own.support), dtype=np.uint32))
    return pl.DataFrame(
        {"topic_id": pl.repeat(topic_id, len(neurons), dtype=pl.UInt32, eager=True), "neuron": neurons} | columns
    )
