"""Means with 95 % intervals, paired where two methods saw the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from atlas.auroc import auroc


class Interval(NamedTuple):
    """A mean and its 95 % interval by Student's t; the ends are None for fewer than two values."""

    value: float
    low: float | None
    high: float | None


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of values that are independent, such as one per prompt.

    None when there is no value, or one is not a finite number: the mean would be none either.
    """
    array = np.asarray(values, dtype=float)
    if not len(array) or not np.isfinite(array).all():
        return None
    if len(array) == 1:
        return Interval(float(array[0]), None, None)
    half = float(stats.t.ppf(0.975, len(array) - 1)) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def share_interval(count: int, total: int) -> Interval:
    """A share of independent cases with its 95 % interval after Wilson (1927)."""
    ends = stats.binomtest(count, total).proportion_ci(method="wilson")
    return Interval(count / total, float(ends.low), float(ends.high))


def auroc_interval(positive: np.ndarray, negative: np.ndarray) -> Interval:
    """AUROC with its 95 % interval after Newcombe (2006, method 5); the ends are None for fewer than two on a side.

    The ends are the areas whose own standard error puts the value 1.96 of them away, so that an area of 1 has a lower
    end too. An interval around the value's own standard error (DeLong's) is far too narrow near 1.
    """
    value = auroc(positive, negative)
    counts = len(positive), len(negative)
    if min(counts) < 2:
        return Interval(value, None, None)
    return Interval(value, _lower_end(value, *counts), 1 - _lower_end(1 - value, *counts))


def _lower_end(value: float, m: int, n: int) -> float:
    """The area at which `value` lies 1.96 standard errors above it."""

    def excess(area: float) -> float:
        spread = 1 + ((m + n) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return area + 1.96 * float(np.sqrt(area * (1 - area) / (m * n) * spread)) - value

    return float(optimize.brentq(excess, 0.0, min(value, 1 - 1e-9)))
