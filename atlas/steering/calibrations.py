"""Strengths that calibrations picked or that were fitted to the model: each is stored with what it holds for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import polars as pl

from atlas.contrast.vectors import vector_ids
from atlas.steering.methods import METHODS
from atlas.steering.settings import Options, SteeringSettings
from atlas.store.session import Asks, Session, now


@dataclass(frozen=True)
class CalibrationKey:
    """The settings under which a picked strength holds.

    Attributes:
        topic: the topic, or the behaviours of the vectors.
        sae_keys: the SAEs steered at once.
        method: key of METHODS.
        parameters: the other settings, as JSON: all but the strength itself.
    """

    topic: str | None
    sae_keys: Sequence[int]
    method: str
    parameters: str


def calibration_key(
    session: Asks,
    method: str,
    options: Options,
    settings: SteeringSettings,
    *,
    topic: str | None,
    sae_keys: Sequence[int],
    vectors: Sequence[str] = (),
) -> CalibrationKey:
    """The settings under which a strength of a method would be stored, and is looked up.

    The strength of a method that steers by a vector holds for that vector under every topic, unless the method weighs
    neurons by the topic's scores.

    Args:
        options: the method's settings.
        settings: what it shares with the other methods.
        topic: the topic that steers, or that a vector is measured on; None for none.
        sae_keys: the SAEs steered at once.
        vectors: behaviours whose vectors are added up.
    """
    holds = {name: value for name, value in asdict(options).items() if name != "strength"} | settings.stored()
    holds.pop("system", None)  # like a prompt, it is what the model reads
    used = METHODS[method].vector
    if used is None:
        return CalibrationKey(topic, sae_keys, method, json.dumps(holds, sort_keys=True))
    holds["vector_ids"] = vector_ids(session, vectors, sae_keys, used)
    if METHODS[method].weighs:
        holds["topic"] = topic
    else:
        del holds["scorer"], holds["select"]
    return CalibrationKey(" + ".join(sorted(vectors)), sae_keys, method, json.dumps(holds, sort_keys=True))


def fit_key(session: Asks, key: CalibrationKey, scoring_ids: Sequence[int]) -> CalibrationKey:
    """What a fitted strength is stored for: the same settings, and scores made when those that steered were made."""
    times = [session.ask("scoring", scoring_id=one).item(0, "created_at") for one in scoring_ids]
    holds = json.loads(key.parameters) | {"scored_at": [time.isoformat() for time in times]}
    return replace(key, parameters=json.dumps(holds, sort_keys=True))


def picked_strength(session: Asks, key: CalibrationKey) -> float | None:
    """The strength picked last for this; None when there is none."""
    found = session.value("calibrated_strength", **{**asdict(key), "sae_keys": list(key.sae_keys)})
    return None if found is None else float(found)


def store_strength(session: Session, key: CalibrationKey, strength: float, rule: str) -> None:
    """Keep a strength, with the rule that picked it in words."""
    session.append(
        "calibrations",
        pl.DataFrame(
            {
                "topic": [key.topic],
                "sae_keys": pl.Series([list(key.sae_keys)], dtype=pl.List(pl.UInt32)),
                "method": [key.method],
                "parameters": [key.parameters],
                "strength": [strength],
                "rule": [rule],
                "created_at": [now()],
            }
        ),
    )
