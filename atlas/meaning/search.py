"""The neurons that are closest to texts, by their vectors: one inner product each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import AtlasError, StoreError
from atlas.meaning.described import describe
from atlas.meaning.neuron_vectors import SUPPORT
from atlas.meaning.vector_products import DAMAGED, VectorProducts, multiply_vectors
from atlas.store.session import Asks

COLUMNS = ("topic", "release", "sae_id", "sae_key", "rank", "neuron", "z", "score", "g", "support", "fires_on", "top_tokens",
           "label")  # fmt: skip
FOUND = {
    "place": pl.UInt32, "sae_key": pl.UInt32, "rank": pl.Int64, "neuron": pl.UInt32, "z": pl.Float64, "score": pl.Float64,
    "g": pl.Float64,
}  # fmt: skip


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
    means = np.array([np.mean(np.asarray(own, dtype=np.float64), axis=0) for own in topics.values()], dtype=np.float32)
    wanted = _Wanted(np.array([len(own) for own in topics.values()]), n, by)
    keys = [row["sae_key"] for row in session.rows("all_saes") if sae is None or str(row["sae_key"]) == sae]
    frames = [_find_best(own, wanted) for own in multiply_vectors(session, keys, means)]
    best = pl.concat([pl.DataFrame(schema=FOUND), *(frame for frame in frames if frame is not None)])
    if best.is_empty():
        raise AtlasError(
            f"no neuron fired on {SUPPORT} or more prompts, so none can be found: add prompts to the atlas"
        )
    order = pl.DataFrame({"place": pl.Series(range(len(topics)), dtype=pl.UInt32), "topic": list(topics)})
    joined = describe(session, best).join(order, on="place", how="left")
    return joined.sort("place", "sae_key", "rank").select(COLUMNS)


@dataclass(frozen=True)
class _Wanted:
    """What is searched for.

    Attributes:
        texts: how many texts each topic has.
        n: neurons per topic.
        by: "z" or "score".
    """

    texts: np.ndarray
    n: int
    by: str


def _find_best(own: VectorProducts, wanted: _Wanted) -> pl.DataFrame | None:
    """The best neurons of an SAE for each topic; None where no neuron has enough support."""
    enough = own.support[own.neurons] >= SUPPORT
    if not enough.any():
        return None
    neurons, square, expected, spread = (x[enough] for x in (own.neurons, own.square, own.expected_g, own.spread))
    products = own.products if enough.all() else own.products[:, enough]
    g = (square + 1).astype(products.dtype) - 2 * products
    lowest, highest = (find(axis=1).astype(np.float64) for find in (g.min, g.max))
    middle = g.mean(axis=1, dtype=np.float64)
    off, width = expected - expected.mean(), np.where(highest > lowest, highest - lowest, np.nan)
    unit = np.where(spread > 0, 2 * spread, np.nan)
    by_z = wanted.by == "z"
    order = (g - (off + middle[:, None]).astype(g.dtype)) / unit.astype(g.dtype) if by_z else g
    best = [_smallest(row, wanted.n) for row in order]
    places = np.repeat(np.arange(len(best)), [len(some) for some in best])
    chosen = np.concatenate(best)
    found = g[places, chosen].astype(np.float64)
    z = (found - middle[places] - off[chosen]) * np.sqrt(wanted.texts[places]) / unit[chosen]
    score = 1 - (found - lowest[places]) / width[places]
    if not np.isfinite(middle).all() or not np.isfinite(expected).all():
        raise StoreError(DAMAGED)
    return pl.DataFrame(
        {
            "place": places.astype(np.uint32),
            "sae_key": pl.repeat(own.sae_key, len(chosen), dtype=pl.UInt32, eager=True),
            "rank": np.concatenate([np.arange(1, len(some) + 1) for some in best]),
            "neuron": neurons[chosen],
            "z": pl.Series(z).fill_nan(None),
            "score": pl.Series(score).fill_nan(None),
            "g": found,
        },
        schema=FOUND,
    )


def _smallest(values: np.ndarray, n: int) -> np.ndarray:
    """The places of the n smallest values, in order; NaN comes last, and the first of those that are equal first."""
    settled = np.where(np.isnan(values), np.inf, values)
    if n < len(settled):
        limit = np.partition(settled, n - 1)[n - 1]
        places = np.flatnonzero(settled <= limit)
    else:
        places = np.arange(len(settled))
    return places[np.argsort(settled[places], kind="stable")][:n]
