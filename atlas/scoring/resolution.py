"""Are differences between scores more than rounding? Scores that are not are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atlas.errors import AtlasError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.distances import error_of_power

ACTIVATION_NOISE = 1e-5  # share of an activation that 32-bit rounding moves it by, from one batch to another


def check_scores(ranges: Iterable[Mapping[str, Any]], names: Mapping[int, str], config: ScoringConfig) -> None:
    """Raise AtlasError unless scores are finite numbers that differ by more than rounding.

    Args:
        ranges: the rows of sql/scoring/score_ranges.sql.
        names: of the topics, by their ids.
        config: how they were scored.
    """
    for row in ranges:
        topic, eligible = f"topic {names[row['topic_id']]!r}", row["eligible"]
        if not row["finite"]:
            raise AtlasError(
                f"{topic}: its {config.scorer} scores are not finite numbers, so the activations in the atlas are not: "
                "build it again, with --dtype bfloat16 or float32"
            )
        if config.scorer == "output":  # what a neuron writes is its own score, whatever the others write
            continue
        fired = f"{eligible} neurons fired on {config.min_support} or more prompts"
        if eligible < 2:
            raise AtlasError(
                f"{topic}: {fired}, so scores cannot be told apart: lower --min-support, or add prompts to the atlas"
            )
        if row["highest"] - row["lowest"] <= resolution(config, row["highest"]):
            raise AtlasError(
                f"{topic}: {fired} and all are equal, so scores cannot be told apart: build the atlas of prompts that "
                "differ more in what they are about"
            )


def resolution(config: ScoringConfig, value: float) -> float:
    """What two neurons must differ by, in what their scores are made of, for it to be more than rounding.

    g is a mean of distance ** power, so that an error of every distance moves it by at most that of the largest.

    Args:
        config: how they were scored.
        value: the highest there is.
    """
    if config.scorer == "distance":
        return error_of_power(value, config.distance, config.power)
    return ACTIVATION_NOISE * abs(value)
