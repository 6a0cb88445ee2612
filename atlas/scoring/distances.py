"""How far a prompt is from a topic: the distance to the nearest of its texts (method: section 2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from atlas.store.contents import stack_vectors
from atlas.store.session import Session

DISTANCES = {
    "euclidean": "length of the difference of the embeddings",
    "cosine": "1 - cosine of the embeddings",
}
BATCH = 2048  # prompts at a time, so that memory does not grow with the atlas
NOISE = 1e-5  # of a distance: an encoder's 32-bit rounding moves a text's embedding by 7e-7 from one batch to another
ROUNDING = 1e-14  # a squared distance below it is the rounding of the vectors' own 32-bit numbers


def make_distances(session: Session, topic_ids: Sequence[int]) -> None:
    """Make the temporary table `distances`: a (topic, prompt) and the Euclidean distance to the topic's nearest text."""
    session.run("empty_distances")
    for ids, prompts, far in measure_distances(session, topic_ids):
        session.append(
            "distances",
            pl.DataFrame({
                "topic_id": np.tile(ids, len(prompts)),
                "prompt_id": np.repeat(prompts, len(ids)),
                "euclidean": far.ravel(),
            }),
        )  # fmt: skip


def distance_matrix(session: Session, topic_ids: Sequence[int]) -> np.ndarray:
    """The Euclidean distance of every prompt, in order, to the nearest text of each topic [prompt, topic]."""
    found = np.empty((session.value("prompt_count"), len(topic_ids)))
    for ids, prompts, far in measure_distances(session, topic_ids):
        found[prompts[:, None], np.searchsorted(np.sort(topic_ids), ids)] = far
    return found[:, np.argsort(np.argsort(topic_ids))]


def measure_distances(
    session: Session, topic_ids: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of prompts: the topics' ids in ascending order, the prompts' ids, distances [prompt, topic]."""
    topics = session.ask("topic_vectors", topic_ids=list(topic_ids))
    texts = stack_vectors(topics["vector"])
    ids, starts = np.unique(topics["topic_id"].to_numpy(), return_index=True)
    for first in itertools.count(0, BATCH):
        prompts = session.ask("embedding_batch", first=first, count=BATCH)
        if not prompts.height:
            return
        vectors = stack_vectors(prompts["vector"], texts.shape[1])
        nearest = np.minimum.reduceat(squared_distances(vectors, texts), starts, axis=1)
        yield ids, prompts["prompt_id"].to_numpy(), np.sqrt(nearest)
        if prompts.height < BATCH:
            return


def raise_distances(euclidean: np.ndarray, distance: str, power: float) -> np.ndarray:
    """distance ** power, of Euclidean distances between vectors of length 1."""
    return np.asarray((euclidean**2 / 2 if distance == "cosine" else euclidean) ** power)


def error_of_power(value: float, distance: str, power: float) -> float:
    """How uncertain a mean of distance ** power is, just because embeddings are rounded: NOISE in each distance."""
    root = value ** (1 / power)
    euclidean = math.sqrt(2 * root) if distance == "cosine" else root
    low, high = raise_distances(np.array([euclidean, euclidean + NOISE]), distance, power)
    return float(high - low)


def squared_distances(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """|v - t|² of 32-bit vectors [prompt, dimension] and texts [text, dimension]: [prompt, text], exactly 0 where equal.

    In double precision |v|² + |t|² - 2 v·t keeps 15 digits, where single precision would lose half of its 7 near 0.
    """
    v, t = vectors.astype(np.float64), texts.astype(np.float64)
    squares = np.einsum("pd,pd->p", v, v)[:, None] + np.einsum("td,td->t", t, t) - 2 * (v @ t.T)
    return np.where(squares < ROUNDING, 0, squares)
