"""The neuron of another SAE, layer or model that is nearest in meaning: by the cosine of vectors less the mean embedding.

Vectors of both sides pass through memory in blocks; what is kept is two numbers per neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import AtlasError
from atlas.meaning.neuron_vectors import SUPPORT, ensure_neuron_vectors
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import Asks
from atlas.store.state import require_complete

BLOCK = 2048  # neurons of a side at once


@dataclass(frozen=True)
class Side:
    """An SAE of an atlas, to be matched."""

    store: Store
    sae_key: int


@dataclass
class Nearest:
    """The best partner of each neuron of a side so far: its place among the other side's neurons, and the cosine."""

    place: np.ndarray
    cosine: np.ndarray

    def update(self, first: int, cosines: np.ndarray, offset: int) -> None:
        """Look at the cosines [neuron, partner] of neurons from place `first` on with partners from `offset` on."""
        best = cosines.argmax(axis=1)
        found = cosines[np.arange(len(best)), best]
        own = slice(first, first + len(best))
        better = found > self.cosine[own]  # the first of several equal ones stays
        self.place[own][better] = offset + best[better]
        self.cosine[own][better] = found[better]


def match_neurons(one: Side, other: Side) -> pl.DataFrame:
    """For each neuron of an SAE that fired on 20 or more prompts the nearest such neuron of another.

    Args:
        one: an SAE.
        other: another, of the same atlas or of one with the same sentence encoder.

    Returns:
        A row per neuron: neuron, label, support, other_neuron, other_label, other_support, cosine, and mutual: whether it is
        the nearest of the other one, too.

    Raises:
        AtlasError: the atlases have different sentence encoders, both are one SAE, or one has no neuron with enough prompts.
        StoreError: an atlas is unfinished, damaged, or cannot be given vectors.
    """
    if (one.store.file.resolve(), one.sae_key) == (other.store.file.resolve(), other.sae_key):
        raise AtlasError(f"SAE {one.sae_key} of {one.store.path} is to be matched with itself: name another one")
    require_one_encoder(one.store, other.store)
    for side in (one, other):
        ensure_neuron_vectors(side.store)
    with one.store.read() as here, other.store.read() as there:
        ours, theirs = _names(here, one), _names(there, other)
        forth, back = _empty(ours.height), _empty(theirs.height)
        for first, vectors in _blocks(here, one.sae_key, ours):
            for offset, others in _blocks(there, other.sae_key, theirs):
                cosines = vectors @ others.T
                forth.update(first, cosines, offset)
                back.update(offset, cosines.T, first)
    partners = theirs[forth.place].select(pl.all().name.prefix("other_"))
    mutual = back.place[forth.place] == np.arange(ours.height)
    return ours.hstack(partners).with_columns(cosine=pl.Series(forth.cosine), mutual=pl.Series(mutual))


def require_one_encoder(one: Store, other: Store) -> None:
    """Raise AtlasError unless two atlases have embeddings of one sentence encoder, by its hash."""
    rows = []
    for store in (one, other):
        with store.read() as session:
            rows.append(require_complete(session, store))
    if rows[0]["encoder_hash"] != rows[1]["encoder_hash"]:
        raise AtlasError(
            f"{one.path} has the sentence encoder {rows[0]['encoder']}, {other.path} another ({rows[1]['encoder']}): their "
            "neurons cannot be compared; build one of them again with the encoder of the other"
        )


def _empty(neurons: int) -> Nearest:
    return Nearest(np.zeros(neurons, dtype=np.int64), np.full(neurons, -np.inf, dtype=np.float32))


def _names(session: Asks, side: Side) -> pl.DataFrame:
    """The neurons of a side that can be matched, in order."""
    found = session.ask("matched_neurons", sae_key=side.sae_key, support=SUPPORT)
    if found.is_empty():
        raise AtlasError(
            f"no neuron of SAE {side.sae_key} of {side.store.path} fired on {SUPPORT} or more prompts, so none can be matched: "
            "add prompts to the atlas"
        )
    return found


def _blocks(session: Asks, sae_key: int, names: pl.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """The directions of these neurons, a block at a time: the place of its first, and vectors of length 1, or 0."""
    mean = stack_vectors(session.ask("moments")["mean"])[0].astype(np.float64)
    for first in range(0, names.height, BLOCK):
        neurons = names["neuron"].slice(first, BLOCK).to_list()
        rows = session.ask("vectors_of_neurons", sae_key=sae_key, neurons=neurons)
        off = stack_vectors(rows["vector"], len(mean)) - mean
        length = np.linalg.norm(off, axis=1, keepdims=True)
        yield first, (off / np.where(length > 0, length, 1)).astype(np.float32)
