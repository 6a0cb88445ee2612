"""Means with 95 % intervals, paired where two methods saw the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and its 95 % interval by Student's t; the ends are None for fewer than two values."""

    value: float
    low: float | None
    high: float | None

    def excludes_zero(self) -> bool:
        """Whether both ends lie on one side of 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of values that are independent, such as one per prompt; None when there is none."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return None
    if len(array) == 1:
        return Interval(float(array[0]), None, None)
    half = float(stats.t.ppf(0.975, len(array) - 1)) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive value lies above a negative one, ties counted half."""
    positive, negative = np.asarray(positive), np.sort(negative)
    below = np.searchsorted(negative, positive, side="left")
    up_to = np.searchsorted(negative, positive, side="right")
    return float((below + up_to).mean() / 2 / len(negative))


def auroc_interval(positive: np.ndarray, negative: np.ndarray) -> Interval:
    """AUROC with its 95 % interval after DeLong (1988)."""
    value = auroc(positive, negative)
    per_positive = np.array([auroc(np.array([p]), negative) for p in positive])
    per_negative = np.array([auroc(positive, np.array([n])) for n in negative])
    variance = per_positive.var(ddof=1) / len(positive) + per_negative.var(ddof=1) / len(negative)
    half = 1.96 * float(np.sqrt(variance))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))
