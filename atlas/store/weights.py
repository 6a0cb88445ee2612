"""The weights of the prompts for an SAE's neurons (method: equation 2), a run of neurons at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from atlas.store.session import Asks

if TYPE_CHECKING:
    from scipy import sparse

ROWS = 1 << 20  # activations in memory at once
ROW_VALUES = 6  # 64-bit numbers that take the memory of an activation


def weight_runs(
    session: Asks, sae_key: int, summary: str, *, values: int = 0
) -> Iterator[tuple[int, sparse.csr_array]]:
    """The weights of the prompts for the neurons [neuron, prompt], a run of neurons at a time.

    Args:
        session: the atlas.
        sae_key: the SAE.
        summary: key of SUMMARIES.
        values: 64-bit numbers that the caller keeps of each neuron of a run: shorter runs make room for them.

    Yields:
        The first neuron of the run, and the weights.
    """
    from scipy import sparse  # whose import takes longer than a search

    shares = session.ask("prompt_shares", sae_key=sae_key, summary=summary)["share"].fill_null(0).to_numpy()
    support = session.ask("matching_columns", sae_key=sae_key)["support"].to_numpy().astype(np.int64)
    taken = support + values // ROW_VALUES
    before = np.cumsum(taken) - taken
    starts = np.flatnonzero(np.diff(before // ROWS, prepend=-1))
    for first, end in zip(starts, [*starts[1:], len(support)], strict=True):
        last = int(end) - 1
        rows = session.ask("activation_run", sae_key=sae_key, summary=summary, first=int(first), last=last)
        neuron, prompt = rows["row"].to_numpy(), rows["prompt_id"].to_numpy()
        weight = rows["value"].to_numpy() * shares[prompt]
        yield int(first), sparse.csr_array((weight, (neuron, prompt)), shape=(last + 1 - int(first), len(shares)))
