"""Sums over an SAE's activations for many columns of per-prompt values at once, as sparse matrix products.

A query of sql/ that sums them costs 20 ns per activation and topic, whatever the number of topics; a product costs a
tenth of it, once the activations are in memory. They pass through it a run of neurons at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from scipy import sparse

from atlas.store.session import Session

ROWS = 1 << 20  # activations in memory at once
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


def weight_runs(session: Session, sae_key: int, summary: str) -> Iterator[tuple[int, sparse.csr_array]]:
    """The weights of the prompts for the neurons that fired [neuron, prompt], a run of neurons at a time.

    Yields:
        The first neuron of the run, and the weights.
    """
    shares = session.ask("prompt_shares", sae_key=sae_key, summary=summary)["share"].fill_null(0).to_numpy()
    support = session.ask("matching_columns", sae_key=sae_key)["support"].to_numpy().astype(np.int64)
    before = np.cumsum(support) - support
    starts = np.flatnonzero(np.diff(before // ROWS, prepend=-1))
    for first, end in zip(starts, [*starts[1:], len(support)], strict=True):
        last = int(end) - 1
        rows = session.ask("activation_run", sae_key=sae_key, summary=summary, first=int(first), last=last)
        neuron, prompt = rows["row"].to_numpy(), rows["prompt_id"].to_numpy()
        weight = rows["value"].to_numpy() * shares[prompt]
        yield int(first), sparse.csr_array((weight, (neuron, prompt)), shape=(last + 1 - int(first), len(shares)))
