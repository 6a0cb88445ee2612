"""Read contrastive vectors from the store, as steering wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import StoreError, UnknownName
from atlas.store.session import Asks

KINDS = {"sas": "sas", "dense": "dense", "difference": "dense"}  # attribute of VectorSum -> kind of the stored vector


@dataclass(frozen=True)
class VectorSum:
    """The sum of the current vectors of some behaviours for an SAE.

    Attributes:
        sas: over the neurons [d_sae].
        dense: over the dimensions of the hook [d_in].
        difference: mean over the pairs of (positive - negative) codes [d_sae].
    """

    sas: np.ndarray
    dense: np.ndarray
    difference: np.ndarray


def current_vectors(session: Asks, names: Sequence[str]) -> pl.DataFrame:
    """Rows of `vectors` that steering uses, one per behaviour, SAE and kind; UnknownName for a behaviour without one."""
    found = session.ask("current_vectors")
    known = found["name"].unique().to_list()
    for name in names:
        if name not in known:
            raise UnknownName("vector", name, known, hint="make it first with `atlas contrast`")
    return found.filter(pl.col("name").is_in(list(names)))


def saes_with_vectors(session: Asks, names: Sequence[str]) -> list[int]:
    """The SAEs for which every one of the behaviours has a current vector."""
    counts = current_vectors(session, names).group_by("sae_key").agg(pl.col("name").n_unique())
    return sorted(counts.filter(pl.col("name") == len(set(names)))["sae_key"].to_list())


def vector_ids(session: Asks, names: Sequence[str], sae_keys: Sequence[int], attribute: str) -> list[int]:
    """Ids of the vectors behind an attribute of VectorSum, by SAE and behaviour."""
    rows = current_vectors(session, names).filter(
        (pl.col("kind") == KINDS[attribute]) & pl.col("sae_key").is_in(list(sae_keys))
    )
    return rows.sort("sae_key", "name")["vector_id"].to_list()


def sum_vectors(session: Asks, names: Sequence[str], sae_key: int, d_sae: int, d_in: int) -> VectorSum:
    """The sum of behaviours' current vectors for an SAE; StoreError when one has none for it."""
    sas, dense, difference = np.zeros(d_sae), np.zeros(d_in), np.zeros(d_sae)
    rows = current_vectors(session, names)
    for name in names:
        mine = rows.filter((pl.col("name") == name) & (pl.col("sae_key") == sae_key))
        if mine.is_empty():
            raise StoreError(f"vector {name!r} is not there for SAE {sae_key}: run `atlas contrast` for it")
        for row in mine.to_dicts():
            entries = session.ask("vector_values", vector_id=row["vector_id"])
            (sas if row["kind"] == "sas" else dense)[entries["index"].to_numpy()] += entries["value"].to_numpy()
            if row["kind"] == "dense":
                codes = session.ask("code_difference", vector_id=row["vector_id"])
                difference[codes["neuron"].to_numpy()] += codes["value"].to_numpy()
    return VectorSum(*(array.astype(np.float32) for array in (sas, dense, difference)))
