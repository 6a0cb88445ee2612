"""The standard errors of scores by scorer centroid: of the few that are shown, from their activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.store.session import Asks, Session

if TYPE_CHECKING:
    import polars as pl


def with_errors(session: Asks, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with scoring_id, neuron and se, the standard errors of scores by scorer centroid put in; they are not stored.

    On Spark, which reads no frames of ours, they stay null.
    """
    if not isinstance(session, Session) or frame.is_empty():
        return frame
    with session.frame("shown", frame.select("scoring_id", "neuron").unique()):
        errors = session.ask("centroid_errors")
    known = frame.drop("se").join(errors, on=["scoring_id", "neuron"], how="left", maintain_order="left")
    return known.select(frame.columns)
