"""The inner products of topics with the vectors of neurons, and what else is known of neurons that have one.

Vectors that are in memory are multiplied there. Of others one topic is multiplied inside DuckDB, which does so as it reads them;
for several topics they are read once, a run of neurons at a time, and multiplied with all at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import StoreError
from atlas.meaning.vector_memory import MEMORY
from atlas.store.contents import stack_vectors
from atlas.store.session import Asks

DAMAGED = (
    "the atlas is damaged (a neuron's vector is no number): build it again, or get the file again from where it came"
)
VALUES = 1 << 24  # of vectors in memory at once: 64 MiB
FIGURES = ("square", "expected_g", "spread")
Columns = dict[str, np.ndarray]
NONE: Columns = {"neuron": np.zeros(0, np.uint32)} | dict.fromkeys(FIGURES, np.zeros(0))  # of an SAE without vectors


@dataclass(frozen=True)
class VectorProducts:
    """The neurons of an SAE that have a vector, in order.

    Attributes:
        sae_key: the SAE.
        support: of all its neurons, by their numbers.
        neurons: those that have a vector.
        square: as in the table neuron_vectors.
        expected_g: as there.
        spread: as there, NaN for none.
        products: their inner products with the topics [topic, neuron].
    """

    sae_key: int
    support: np.ndarray
    neurons: np.ndarray
    square: np.ndarray
    expected_g: np.ndarray
    spread: np.ndarray
    products: np.ndarray


def multiply_vectors(session: Asks, sae_keys: Sequence[int], topics: np.ndarray) -> Iterator[VectorProducts]:
    """The neurons of each SAE and their inner products with topics [topic, dimension], 32-bit numbers.

    Raises:
        StoreError: a vector in the file is no vector.
    """
    keys = list(sae_keys)
    found = _by_sae(session.ask("vector_figures", sae_keys=keys))
    supports = _by_sae(session.ask("supports", sae_keys=keys))
    figures = {key: found.get(key, NONE) for key in keys}
    at_hand = {key: _at_hand(session, key, figures[key], topics) for key in keys}
    inside = [key for key in keys if at_hand[key] is None and len(topics) == 1]
    products = _multiply_inside(session, inside, figures, topics[0]) if inside else {}
    for key in keys:
        own = products.get(key, at_hand[key])
        if own is None:
            own = _multiply(session, key, figures[key]["neuron"], topics)
        if np.isnan(own).any():
            raise StoreError(DAMAGED)
        own = (
            own.astype(np.float64) if len(topics) == 1 else own
        )  # of many, 32 bits halve the time of what is made of them
        mine = figures[key]
        yield VectorProducts(
            key, supports[key]["support"], mine["neuron"], mine["square"], mine["expected_g"], mine["spread"], own
        )


def _by_sae(frame: pl.DataFrame) -> dict[int, Columns]:
    """The columns of each SAE's rows, by the numbers of the neurons. Rows come in order, unless somebody else wrote the file."""
    columns = {name: frame[name].to_numpy() for name in frame.columns if name != "sae_key"}
    columns |= {name: values.astype(np.float64) for name, values in columns.items() if name in FIGURES}
    keys = frame["sae_key"].to_numpy()
    places = keys.astype(np.int64) << 32 | columns["neuron"]
    if (places[1:] <= places[:-1]).any():
        order = np.argsort(places, kind="stable")
        keys, columns = keys[order], {name: values[order] for name, values in columns.items()}
        if len(np.unique(places)) < len(places):
            raise StoreError(DAMAGED)
    starts = np.flatnonzero(np.diff(keys.astype(np.int64), prepend=-1))
    ends = np.append(starts, len(keys))[1:]
    return {
        int(keys[start]): {name: values[start:end] for name, values in columns.items()}
        for start, end in zip(starts, ends, strict=True)
    }


def _at_hand(session: Asks, sae_key: int, figures: Columns, topics: np.ndarray) -> np.ndarray | None:
    """The products with vectors that are in memory, or that are read into it now; None for others."""
    version, width = session.version, topics.shape[1]
    if version is None:
        return None
    known = list(figures.values())
    vectors = MEMORY.find(version, sae_key, known)
    if vectors is None and MEMORY.wants(version, sae_key, known, width):
        runs = [run for _, run in _vector_runs(session, sae_key, figures["neuron"], width)]
        vectors = np.concatenate([*runs, np.zeros((0, width), np.float32)])
        MEMORY.keep(version, sae_key, known, vectors)
    return None if vectors is None or vectors.shape[1] != width else topics @ vectors.T


def _multiply_inside(
    session: Asks, sae_keys: list[int], figures: Mapping[int, Columns], topic: np.ndarray
) -> dict[int, np.ndarray]:
    """The products of one topic with the vectors of SAEs, by DuckDB."""
    found = _by_sae(session.ask("vector_products", sae_keys=sae_keys, vector=topic.tolist()))
    if any(not np.array_equal(own["neuron"], figures[key]["neuron"]) for key, own in found.items()):
        raise StoreError(DAMAGED)
    return {key: own["product"][None] for key, own in found.items()}


def _multiply(session: Asks, sae_key: int, neurons: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """The products of several topics with the vectors of an SAE's neurons, in order, [topic, neuron]."""
    found = np.empty((len(topics), len(neurons)), dtype=np.float32)
    for start, vectors in _vector_runs(session, sae_key, neurons, topics.shape[1]):
        found[:, start : start + len(vectors)] = topics @ vectors.T
    return found


def _vector_runs(session: Asks, sae_key: int, neurons: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """The vectors of an SAE's neurons in order, a run at a time: the place of the first, and the vectors [neuron, dimension]."""
    for first, last in _runs(neurons, max(1, VALUES // width)):
        rows = session.ask("vectors_between", sae_key=sae_key, first=first, last=last)
        vectors, read = stack_vectors(rows["vector"], width), rows["neuron"].to_numpy()
        order = np.argsort(read, kind="stable")
        start = np.searchsorted(neurons, first)
        if not np.array_equal(read[order], neurons[start : start + len(read)]):
            raise StoreError(DAMAGED)
        yield int(start), vectors if (order[1:] > order[:-1]).all() else vectors[order]


def _runs(neurons: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """First and last of so many neurons at a time."""
    for start in range(0, len(neurons), count):
        some = neurons[start : start + count]
        yield int(some[0]), int(some[-1])
