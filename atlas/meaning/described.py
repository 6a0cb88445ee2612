"""What a reader knows neurons by, beside whatever a frame says of them."""

from __future__ import annotations

import polars as pl

from atlas.store.session import Asks

PAIR = ["sae_key", "neuron"]


def describe(session: Asks, neurons: pl.DataFrame) -> pl.DataFrame:
    """The rows of a frame, in order, with release, sae_id, support, fires_on, top_tokens and label of their neurons.

    Args:
        session: of the atlas.
        neurons: columns sae_key and neuron, and any others; a neuron may come several times.
    """
    pairs = neurons.select(PAIR).unique()
    found = session.ask("described_neurons", sae_keys=pairs["sae_key"].to_list(), neurons=pairs["neuron"].to_list())
    return neurons.join(found, on=PAIR, how="inner", maintain_order="left")
