"""Strengths that a calibration picked: what one holds for, and where it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from atlas.contrast.vectors import vector_ids
from atlas.steering.methods import METHODS, Options
from atlas.store.session import Session, now


@dataclass(frozen=True)
class Purpose:
    """What a strength was picked for.

    Attributes:
        topic: the topic, or the behaviours of the vectors.
        sae_keys: the SAEs steered at once.
        method: key of METHODS.
        parameters: every setting it holds under but the strength itself, as JSON.
    """

    topic: str | None
    sae_keys: Sequence[int]
    method: str
    parameters: str


def purpose_of(
    session: Session,
    method: str,
    options: Options,
    shared: Mapping[str, Any],
    *,
    topic: str | None,
    sae_keys: Sequence[int],
    vectors: Sequence[str] = (),
) -> Purpose:
    """What a method's strength would be picked for.

    A vector's strength holds for that vector, whatever the topic, unless the method weighs neurons by the topic's scores.

    Args:
        options: the method's settings.
        shared: scorer, select, keep_error and positions.
        topic: the topic that steers, or that a vector is measured on; None for none.
        sae_keys: the SAEs steered at once.
        vectors: behaviours whose vectors are added up.
    """
    settings = {name: value for name, value in asdict(options).items() if name != "strength"} | dict(shared)
    used = METHODS[method].vector
    if used is None:
        return Purpose(topic, sae_keys, method, json.dumps(settings, sort_keys=True))
    settings["vector_ids"] = vector_ids(session, vectors, sae_keys, used)
    if METHODS[method].weighs:
        settings["topic"] = topic
    else:
        settings = {name: value for name, value in settings.items() if name not in ("scorer", "select")}
    return Purpose(" + ".join(sorted(vectors)), sae_keys, method, json.dumps(settings, sort_keys=True))


def with_picked(session: Session, method: str, options: Options, shared: Mapping[str, Any], **purpose: Any) -> Options:
    """Options with the strength that was picked for them, where there is one (arguments of `purpose_of`)."""
    picked = picked_strength(session, purpose_of(session, method, options, shared, **purpose))
    return options if picked is None else replace(options, strength=picked)


def picked_strength(session: Session, purpose: Purpose) -> float | None:
    """The strength picked last for this; None when there is none."""
    found = session.value("calibrated_strength", **{**asdict(purpose), "sae_keys": list(purpose.sae_keys)})
    return None if found is None else float(found)


def store_strength(session: Session, purpose: Purpose, strength: float, rule: str) -> None:
    """Keep a strength, with the rule that picked it in words."""
    session.append(
        "calibrations",
        pl.DataFrame(
            {
                "topic": [purpose.topic],
                "sae_keys": pl.Series([list(purpose.sae_keys)], dtype=pl.List(pl.UInt32)),
                "method": [purpose.method],
                "parameters": [purpose.parameters],
                "strength": [strength],
                "rule": [rule],
                "created_at": [now()],
            }
        ),
    )
