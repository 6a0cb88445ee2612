"""Neuron vectors: the mean of the embeddings of a neuron's prompts, each weighted by its share of the prompt (method: equation 12).

They are made at the end of a build, or of an atlas that has none yet by the first command that needs them. Activations pass
through memory a run of neurons at a time, embeddings a block of prompts at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import polars as pl

from atlas.errors import StoreError
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import Asks, Session
from atlas.store.state import require_complete
from atlas.store.weights import weight_runs

SUPPORT = 20  # prompts that a neuron must have fired on for the mean over neurons to count it
SUMMARY = "mean"  # of the activations that weigh the prompts
BLOCK_VALUES = 1 << 22  # of embeddings in memory at once, as 64-bit numbers: 32 MiB
Blocks = Callable[
    [], Iterable[tuple[int, np.ndarray]]
]  # first prompt and embeddings [prompt, dimension], block by block


def ensure_neuron_vectors(store: Store) -> None:
    """Make the vectors of an atlas that has none yet, from its own tables, and say so.

    Raises:
        StoreError: the atlas is unfinished, or cannot be written.
    """
    with store.read() as session:
        require_complete(session, store)
        lacking = lacks_neuron_vectors(session)
    if lacking:
        add_neuron_vectors(store)


def lacks_neuron_vectors(session: Asks) -> bool:
    """Whether some neurons of a finished atlas fired and have no vector: an older version built it."""
    return bool(session.rows("saes_without_vectors"))


def add_neuron_vectors(store: Store) -> None:
    """Make the vectors of an atlas that lacks some, and say so."""
    logging.getLogger("atlas").warning("%s has no neuron vectors yet: making them from its tables, once", store.path)
    with store.write() as session:
        if lacks_neuron_vectors(session):  # another process may have been first
            session.run("drop_neuron_vectors")
            make_neuron_vectors(session)


def make_neuron_vectors(session: Session) -> None:
    """Fill `neuron_vectors` and `embedding_moments`, which are empty, from the other tables of a finished atlas."""
    prompts = session.value("prompt_count")
    if not prompts:
        return
    blocks = read_blocks(session, prompts)
    mean, covariance, square = measure_moments(blocks)
    for sae_key in session.ask("all_saes")["sae_key"]:
        centre = _make_raw_vectors(session, sae_key, blocks)
        for raw in _raw_runs(session, sae_key, len(mean)):
            vectors = stack_vectors(raw["vector"])
            spread = None if centre is None else measure_spread(vectors, centre, covariance)
            session.append(
                "neuron_vectors",
                raw.with_columns(
                    sae_key=pl.lit(sae_key, pl.UInt32),
                    vector=_lists(vectors),
                    expected_g=raw["square"] + square - 2 * (vectors @ mean),
                    spread=pl.Series(spread, dtype=pl.Float64) if spread is not None else pl.lit(None, pl.Float64),
                ),
            )
    moments = {"mean": _lists(mean[None]), "covariance": pl.Series([covariance.astype(np.float32).tolist()])}
    session.append("embedding_moments", pl.DataFrame(moments))


def measure_moments(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of the embeddings, and the mean of their squared lengths, over all prompts."""
    count, total, products = 0, np.zeros(()), np.zeros(())
    for _, block in blocks():
        count += len(block)
        total = total + block.sum(axis=0)
        products = products + block.T @ block
    mean = total / count
    return mean, products / count - np.outer(mean, mean), float(np.trace(products)) / count


def measure_spread(vectors: np.ndarray, centre: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """sqrt(c Σ c) of vectors c less a centre [neuron]: how far c e moves from one random embedding e to another."""
    off = vectors - centre
    return np.asarray(np.sqrt(np.maximum(np.einsum("nd,nd->n", off @ covariance, off), 0)))


def spreads_about(session: Asks, sae_key: int, eligible: np.ndarray) -> np.ndarray:
    """The spread of an SAE's neurons that have a vector, in order, about the mean of those that are eligible [neuron]."""
    mean, covariance = _stored_moments(session)
    total, place = np.zeros(len(mean)), 0
    for vectors in _vector_runs(session, sae_key, len(mean)):
        total += vectors[eligible[place : place + len(vectors)]].sum(axis=0)
        place += len(vectors)
    centre = total / max(eligible.sum(), 1)
    runs = [measure_spread(vectors, centre, covariance) for vectors in _vector_runs(session, sae_key, len(mean))]
    return np.concatenate([*runs, np.zeros(0)])


def _stored_moments(session: Asks) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the embeddings, as they are stored."""
    row = session.ask("moments")
    mean = stack_vectors(row["mean"])[0].astype(np.float64)
    covariance = stack_vectors(row["covariance"].explode(), len(mean)).astype(np.float64)
    if len(covariance) != len(mean):
        raise StoreError(
            "the atlas is damaged (its embedding_moments are of two widths): build it again, or get the file again from where "
            "it came"
        )
    return mean, covariance


def _vector_runs(session: Asks, sae_key: int, width: int) -> Iterator[np.ndarray]:
    """The stored vectors of an SAE's neurons, in order, a run at a time [neuron, dimension]."""
    neurons = session.ask("matching_columns", sae_key=sae_key).height
    step = max(1, BLOCK_VALUES // width)
    for first in range(0, neurons, step):
        run = session.ask("vector_run", sae_key=sae_key, first=first, count=step)
        if run.height:
            yield stack_vectors(run["vector"], width).astype(np.float64)


def read_blocks(session: Session, prompts: int) -> Blocks:
    """The embeddings, in blocks that are read again each time, unless all fit into one."""
    width = stack_vectors(session.ask("embedding_batch", first=0, count=1)["vector"]).shape[1]
    step = max(1, BLOCK_VALUES // width)

    def read() -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, prompts, step):
            rows = session.ask("embedding_batch", first=first, count=step).sort("prompt_id")
            yield first, stack_vectors(rows["vector"], width).astype(np.float64)

    if prompts > step:
        return read
    whole = list(read())
    return lambda: whole


def _make_raw_vectors(session: Session, sae_key: int, blocks: Blocks) -> np.ndarray | None:
    """Fill the temp table `raw_vectors`; the mean vector of the neurons with enough support, None for fewer than two."""
    session.run("empty_raw_vectors")
    support = session.ask("matching_columns", sae_key=sae_key)["support"].to_numpy()
    total, count = np.zeros(()), 0
    width = next(iter(blocks()))[1].shape[1]
    for first, weights in weight_runs(session, sae_key, SUMMARY, values=2 * width):
        fired = np.flatnonzero(weights.sum(axis=1) > 0)
        if not len(fired):
            continue
        vectors, square = _weighted_means(weights[fired], blocks)
        neurons = first + fired
        enough = support[neurons] >= SUPPORT
        total, count = total + vectors[enough].sum(axis=0), count + int(enough.sum())
        raw = {"neuron": neurons.astype(np.uint32), "vector": _lists(vectors), "square": square}
        session.append("raw_vectors", pl.DataFrame(raw))
    return total / count if count >= 2 else None


def _weighted_means(weights: object, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The means, weighted by rows of weights [neuron, prompt], of the embeddings and of their squared lengths."""
    sums: list[np.ndarray] = []
    for first, block in blocks():
        both = np.column_stack([block, np.einsum("pd,pd->p", block, block)])
        part = weights[:, first : first + len(block)] @ both  # type: ignore[index]
        sums = [sums[0] + part] if sums else [part]
    means = sums[0] / weights.sum(axis=1)[:, None]  # type: ignore[attr-defined]
    return means[:, :-1], means[:, -1]


def _raw_runs(session: Session, sae_key: int, width: int) -> Iterator[pl.DataFrame]:
    """The rows of `raw_vectors`, a run of neurons at a time."""
    neurons = session.ask("matching_columns", sae_key=sae_key).height
    step = max(1, BLOCK_VALUES // width)
    for first in range(0, neurons, step):
        run = session.ask("raw_vector_run", first=first, count=step)
        if run.height:
            yield run


def _lists(vectors: np.ndarray) -> pl.Series:
    """Vectors [row, dimension] as a column of lists."""
    return pl.Series(vectors).arr.to_list()
