"""Sums over an SAE's activations for many columns of per-prompt values at once, as sparse matrix products.

A query of sql/ that sums them costs 20 ns per activation and topic, whatever the number of topics; a product costs a
tenth of it, once the activations are in memory. They pass through it a run of neurons at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.store.session import Session
from atlas.store.weights import weight_runs

VALUES = 1 << 23  # per-prompt values in memory at once: 64 MiB
MOST_COLUMNS = 64  # of per-prompt values: more leave the processor's cache


def columns_at_once(prompts: int) -> int:
    """How many columns of per-prompt values go into one pass, so that memory does not grow with the prompts."""
    return max(1, min(MOST_COLUMNS, VALUES // max(prompts, 1)))


def sum_distances(
    session: Session, powers: np.ndarray, topic_ids: Sequence[int], *, sae_key: int, summary: str
) -> None:
    """Make the temporary table `sums` as sql/sum_distances.sql does.

    Args:
        session: the atlas.
        powers: distance ** power of the prompts, in order, to the topics [prompt, topic].
        topic_ids: the topics.
        sae_key: the SAE.
        summary: key of SUMMARIES.
    """
    session.run("empty_sums")
    both = np.hstack([powers, powers**2])
    for first, weights in weight_runs(session, sae_key, summary):
        wd = weights @ powers
        squared = weights.power(2) @ both
        neurons = np.arange(first, first + len(wd), dtype=np.uint32)
        session.append(
            "sums",
            pl.DataFrame({
                "topic_id": np.tile(np.array(topic_ids, np.uint32), len(wd)),
                "neuron": np.repeat(neurons, len(topic_ids)),
                "wd": wd.ravel(),
                "wwd": squared[:, : len(topic_ids)].ravel(),
                "wwdd": squared[:, len(topic_ids) :].ravel(),
            }),
        )  # fmt: skip
