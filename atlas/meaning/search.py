"""The neurons that are closest to texts, by their vectors: one inner product each.

One topic is searched for inside DuckDB, which multiplies vectors as it reads them. For several, vectors are read once, and
multiplied with all topics at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import AtlasError, StoreError
from atlas.meaning.described import describe
from atlas.meaning.neuron_vectors import SUPPORT
from atlas.store.contents import stack_vectors
from atlas.store.session import Asks

DAMAGED = (
    "the atlas is damaged (a neuron's vector is no number): build it again, or get the file again from where it came"
)
VALUES = 1 << 24  # of vectors in memory at once: 64 MiB
COLUMNS = ("topic", "release", "sae_id", "sae_key", "rank", "neuron", "z", "score", "g", "support", "fires_on", "top_tokens",
           "label")  # fmt: skip


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
    names = list(topics)
    means = np.array([np.mean(np.asarray(own, dtype=np.float64), axis=0) for own in topics.values()], dtype=np.float32)
    texts = np.array([len(own) for own in topics.values()])
    if len(names) == 1:
        settings = {"vector": means[0].tolist(), "texts": len(topics[names[0]]), "n": n, "sae": sae, "by": by}
        found = session.ask("search", topic=names[0], **settings)
    else:
        found = _search_several(session, names, _Wanted(means, texts, n, by), sae)
    if found.is_empty():
        raise AtlasError(
            f"no neuron fired on {SUPPORT} or more prompts, so none can be found: add prompts to the atlas"
        )
    if not found.select(pl.all_horizontal(pl.col("z", "score", "g").is_nan().any().not_())).item():
        raise StoreError(DAMAGED)
    return found


@dataclass(frozen=True)
class _Wanted:
    """Topics to be searched for.

    Attributes:
        means: their mean embeddings [topic, dimension].
        texts: how many texts each has.
        n: neurons per topic.
        by: "z" or "score".
    """

    means: np.ndarray
    texts: np.ndarray
    n: int
    by: str


def _search_several(session: Asks, names: Sequence[str], wanted: _Wanted, sae: str | None) -> pl.DataFrame:
    """What sql/meaning/search.sql gives for each of the topics, with a column `topic`, topic after topic."""
    keys = [key for key in session.ask("all_saes")["sae_key"] if sae is None or str(key) == sae]
    frames = [_search_sae(session, key, wanted) for key in keys]
    best = pl.concat([frame for frame in frames if frame is not None] or [pl.DataFrame(schema=_SCHEMA)])
    order = pl.DataFrame({"place": pl.Series(range(len(names)), dtype=pl.UInt32), "topic": list(names)})
    joined = describe(session, best).join(order, on="place", how="left")
    return joined.sort("place", "sae_key", "rank").select(COLUMNS)


_SCHEMA = {
    "place": pl.UInt32, "sae_key": pl.UInt32, "rank": pl.Int64, "neuron": pl.UInt32, "z": pl.Float64, "score": pl.Float64,
    "g": pl.Float64,
}  # fmt: skip


def _search_sae(session: Asks, sae_key: int, wanted: _Wanted) -> pl.DataFrame | None:
    """The best neurons of an SAE for each topic; None where no neuron has enough support."""
    figures = session.ask("vector_figures", sae_key=sae_key)
    enough = (figures["support"] >= SUPPORT).to_numpy()
    if not enough.any():
        return None
    kept = figures.filter(enough)
    products = _multiply(session, sae_key, figures["neuron"].to_numpy(), wanted.means)
    g = (kept["square"].to_numpy() + 1).astype(np.float32) - 2 * (products if enough.all() else products[:, enough])
    lowest, highest = (find(axis=1).astype(np.float64) for find in (g.min, g.max))
    middle = g.mean(axis=1, dtype=np.float64)
    expected, spread = (kept[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("expected_g", "spread"))
    off, width = expected - expected.mean(), np.where(highest > lowest, highest - lowest, np.nan)
    unit = np.where(spread > 0, 2 * spread, np.nan)
    by_z = wanted.by == "z"
    order = (g - (off + middle[:, None]).astype(np.float32)) / unit.astype(np.float32) if by_z else g
    best = [_smallest(row, wanted.n) for row in order]
    places = np.repeat(np.arange(len(best)), [len(own) for own in best])
    chosen = np.concatenate(best)
    found = g[places, chosen].astype(np.float64)
    z = (found - middle[places] - off[chosen]) * np.sqrt(wanted.texts[places]) / unit[chosen]
    score = 1 - (found - lowest[places]) / width[places]
    return pl.DataFrame(
        {
            "place": places.astype(np.uint32),
            "sae_key": pl.repeat(sae_key, len(chosen), dtype=pl.UInt32, eager=True),
            "rank": np.concatenate([np.arange(1, len(own) + 1) for own in best]),
            "neuron": kept["neuron"].gather(chosen),
            "z": pl.Series(z).fill_nan(None),
            "score": pl.Series(score).fill_nan(None),
            "g": found,
        },
        schema=_SCHEMA,
    )


def _multiply(session: Asks, sae_key: int, neurons: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The inner products of the topics' means with an SAE's vectors, of these neurons in order [topic, neuron]."""
    found = np.empty((len(means), len(neurons)), dtype=np.float32)
    for first, last in _runs(neurons, max(1, VALUES // means.shape[1])):
        rows = session.ask("vectors_between", sae_key=sae_key, first=first, last=last)
        vectors, read = stack_vectors(rows["vector"], means.shape[1]), rows["neuron"].to_numpy()
        order = np.argsort(read, kind="stable")
        start = np.searchsorted(neurons, first)
        if not np.array_equal(read[order], neurons[start : start + len(read)]):
            raise StoreError(DAMAGED)
        part = means @ vectors.T
        found[:, start : start + len(read)] = part if (order[1:] > order[:-1]).all() else part[:, order]
    return found


def _runs(neurons: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """First and last of so many neurons at a time."""
    for start in range(0, len(neurons), count):
        some = neurons[start : start + count]
        yield int(some[0]), int(some[-1])


def _smallest(values: np.ndarray, n: int) -> np.ndarray:
    """The places of the n smallest values, in order; NaN comes last, and the first of those that are equal first."""
    settled = np.where(np.isnan(values), np.inf, values)
    if n < len(settled):
        limit = np.partition(settled, n - 1)[n - 1]
        places = np.flatnonzero(settled <= limit)
    else:
        places = np.arange(len(settled))
    return places[np.argsort(settled[places], kind="stable")][:n]
