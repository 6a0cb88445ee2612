"""How far a prompt is from a topic: the distance to the nearest of its texts (method: section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.store import Session

BATCH = 2048  # prompts at a time, so that memory does not grow with the atlas
ROUNDING = 1e-14  # a squared distance below it is the rounding of the vectors' own 32-bit numbers


def make_distances(session: Session, topic_ids: Sequence[int]) -> None:
    """Make the temporary table `distances`: a (topic, prompt) and the Euclidean distance to the topic's nearest text."""
    topics = session.ask("topic_vectors", topic_ids=list(topic_ids))
    texts = topics["vector"].explode().to_numpy().reshape(topics.height, -1)
    ids, starts = np.unique(topics["topic_id"].to_numpy(), return_index=True)
    session.run("make_distances")
    first = 0
    while (prompts := session.ask("embedding_batch", first=first, count=BATCH)).height:
        vectors = prompts["vector"].explode().to_numpy().reshape(prompts.height, -1)
        nearest = np.minimum.reduceat(squared_distances(vectors, texts), starts, axis=1)
        session.append(
            "distances",
            pl.DataFrame({
                "topic_id": np.tile(ids, prompts.height),
                "prompt_id": np.repeat(prompts["prompt_id"].to_numpy(), len(ids)),
                "euclidean": np.sqrt(nearest).ravel(),
            }),
        )  # fmt: skip
        first += BATCH


def squared_distances(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """|v - t|² of 32-bit vectors [prompt, dimension] and texts [text, dimension]: [prompt, text], exactly 0 where equal.

    In double precision |v|² + |t|² - 2 v·t keeps 15 digits, where single precision would lose half of its 7 near 0.
    """
    v, t = vectors.astype(np.float64), texts.astype(np.float64)
    squares = np.einsum("pd,pd->p", v, v)[:, None] + np.einsum("td,td->t", t, t) - 2 * (v @ t.T)
    return np.where(squares < ROUNDING, 0, squares)
