"""TODO: say what is in here."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from atlas.steering.methods import Layer, Target
from atlas.steering.selection import DEFAULT_RULE, select_neurons


class Layers(NamedTuple):
    """SAEs with scores, the scorings they come from, and the SAEs' rows in the store."""

    layers: list[Layer]
    scoring_ids: list[int]
    rows: list[dict[str, Any]]


def make_target(frame: pl.DataFrame, neutral: bool, device: str = "cpu", select: str = DEFAULT_RULE) -> Target:
    """A Target from the columns of sql/steering_columns.sql; `neutral` scores are all 1."""
    if neutral:
        scores, best = np.ones(frame.height, dtype=np.float32), np.arange(frame.height)
    else:
        scores, best = select_neurons(frame, select)
    return Target(
        torch.tensor(scores, device=device),
        torch.tensor(frame["max_activation"].to_numpy(), device=device),
        torch.tensor(best, device=device),
    )
