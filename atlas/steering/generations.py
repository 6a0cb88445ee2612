"""Keep generated texts and their figures in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atlas.steering.generation import Generation
from atlas.store.session import Session, now

OWN_FIGURES = ("contamination", "kept", "new", "dropped")  # come with a generation
METRIC_SCHEMA = {
    "run_id": pl.UInt32, "generation_id": pl.UInt32, "name": pl.String, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where texts come from: settings, kept as JSON, and the scorings and vectors that steered."""

    parameters: Mapping[str, Any]
    scoring_ids: Sequence[int] = ()
    vector_ids: Sequence[int] = ()


def store_generations(
    session: Session, generations: Sequence[Generation], sources: Mapping[str, Source], *, run_id: int | None = None
) -> list[int]:
    """Append texts and the figures that came with them to `generations` and `metrics`; the new ids.

    Args:
        sources: method, as the generations name it -> where its texts come from.
        run_id: the run they belong to; None for none.
    """
    first = session.next_id("generation_id")
    ids = list(range(first, first + len(generations)))
    found = [sources[one.method] for one in generations]
    session.append(
        "generations",
        pl.DataFrame(
            {
                "generation_id": pl.Series(ids, dtype=pl.UInt32),
                "run_id": pl.Series([run_id] * len(ids), dtype=pl.UInt32),
                "scoring_ids": pl.Series([list(one.scoring_ids) for one in found], dtype=pl.List(pl.UInt32)),
                "vector_ids": pl.Series([list(one.vector_ids) for one in found], dtype=pl.List(pl.UInt32)),
                "method": [g.method for g in generations],
                "parameters": [json.dumps(one.parameters) for one in found],
                "prompt": [g.prompt for g in generations],
                "text": [g.text for g in generations],
                "seed": pl.Series([g.seed for g in generations], dtype=pl.UInt64),
                "created_at": [now()] * len(generations),
            }
        ),
    )
    store_values(session, run_id, ids, own_values(generations))
    return ids


def own_values(generations: Sequence[Generation]) -> dict[str, list[float | None]]:
    """The figures that came with generations, a value per text."""
    return {name: [getattr(one, name) for one in generations] for name in OWN_FIGURES}


def store_values(
    session: Session, run_id: int | None, ids: Sequence[int], values: Mapping[str, Sequence[float | None]]
) -> None:
    """Append figures of generations to `metrics`; those without a value are left out."""
    rows = [
        (run_id, generation_id, name, value, None, None)
        for name, found in values.items()
        for generation_id, value in zip(ids, found, strict=True)
        if value is not None
    ]
    session.append("metrics", pl.DataFrame(rows, schema=METRIC_SCHEMA, orient="row"))
