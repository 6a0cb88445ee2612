"""What a search shows: the SQL of its filters, which `atlas query` answers alike, and the errors of what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import AtlasError, UnknownName
from atlas.store.file import Store

ORDERS = {"z": "s.z", "score": "s.score desc"}
COLUMNS = "s.sae_key, s.sae_id, s.neuron, s.score, s.z, s.g, s.support, n.density, s.label, s.fires_on, s.top_tokens as writes"
EVERY = 1_000_000_000  # neurons: filters come after the ranking
MOST = 1000  # rows on a page


@dataclass(frozen=True)
class Filters:
    """Which of the neurons are shown; None for no such filter.

    Attributes:
        sae_key: those of one SAE.
        support: fired on so many prompts at least.
        density: fire on at most this share of the tokens.
        z: have at most this z.
        by: what orders them: key of ORDERS.
        rows: how many.
    """

    sae_key: int | None = None
    support: int | None = None
    density: float | None = None
    z: float | None = None
    by: str = "z"
    rows: int = 20

    def __post_init__(self) -> None:
        if self.by not in ORDERS:
            raise UnknownName("order", self.by, ORDERS)
        if not 1 <= self.rows <= MOST:
            raise AtlasError(f"{self.rows} rows are out of range: give 1 to {MOST:,}")

    def conditions(self) -> list[str]:
        """The conditions of the `where`, as SQL."""
        given = {
            "s.sae_key = {}": self.sae_key,
            "s.support >= {}": self.support,
            "n.density <= {}": self.density,
            "s.z <= {}": self.z,
        }
        return [text.format(repr(value)) for text, value in given.items() if value is not None]


def mean_embedding(vectors: Sequence[Sequence[float]]) -> list[float]:
    """The mean of the embeddings of a topic's texts, in single precision, as a search goes by it."""
    found: list[float] = np.mean(np.asarray(vectors, dtype=np.float64), axis=0).astype(np.float32).tolist()
    return found


def search_sql(vector: Sequence[float], *, texts: int, filters: Filters) -> str:
    """The query that a search shows the rows of.

    Args:
        vector: the mean embedding of the texts.
        texts: how many they are.
        filters: which neurons.
    """
    listed = ", ".join(repr(float(value)) for value in vector)
    n = EVERY if filters.conditions() else filters.rows  # without a condition the best of each SAE will do
    where = "\nwhere " + "\n    and ".join(filters.conditions()) if filters.conditions() else ""
    return (
        f"select {COLUMNS}\n"
        f"from search_neurons([{listed}], {n}, texts := {texts}, \"by\" := '{filters.by}') as s\n"
        f"join neurons as n on n.sae_key = s.sae_key and n.neuron = s.neuron{where}\n"
        f"order by {ORDERS[filters.by]}, s.sae_key, s.neuron\n"
        f"limit {filters.rows}"
    )


def search_errors(store: Store, vector: Sequence[float], found: pl.DataFrame) -> pl.DataFrame:
    """Rows of a search with the standard errors of their scores, `se`."""
    if found.is_empty():
        return found.with_columns(se=pl.lit(None, pl.Float64))
    with store.read_file() as session, session.frame("shown", found.select("sae_key", "neuron", "g")):
        errors = session.ask("search_errors", vector=list(vector))
    return found.join(errors, on=["sae_key", "neuron"], how="left", maintain_order="left")
