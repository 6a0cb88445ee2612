"""Means and AUROC have the value and the interval that SciPy, counting and resampling give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlas.intervals import Interval, auroc, auroc_interval, mean_interval


def count_wins(positive, negative):
    """AUROC by its definition: every pair is looked at."""
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


@pytest.mark.parametrize("count", [2, 3, 10, 400])
def test_the_interval_of_a_mean_is_students(count):
    values = np.random.default_rng(count).exponential(size=count)
    found = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert found == pytest.approx((values.mean(), low, high), rel=1e-12)


def test_the_interval_of_a_mean_covers_it_95_times_in_100():
    samples = np.random.default_rng(0).standard_normal((2000, 5)) + 3
    found = [mean_interval(sample) for sample in samples]
    assert np.mean([one.low < 3 < one.high for one in found]) == pytest.approx(0.95, abs=0.015)


def test_the_interval_of_paired_differences_is_that_of_scipys_paired_test():
    generator = np.random.default_rng(1)
    before = generator.standard_normal(30)
    after = before + 0.2 + 0.5 * generator.standard_normal(30)
    found = mean_interval(after - before)
    test = stats.ttest_rel(after, before)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), rel=1e-9)
    assert found.excludes_zero() == (test.pvalue < 0.05)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval([0.5]) == Interval(0.5, None, None)
    assert mean_interval([]) is None
    assert not Interval(0.5, None, None).excludes_zero()


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.2, False), (0.0, 0.2, False), (-0.2, 0.0, False)],
)
def test_an_interval_excludes_zero_when_both_ends_are_on_one_side(low, high, excludes):
    assert Interval((low + high) / 2, low, high).excludes_zero() is excludes


@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_ties_half(seed):
    generator = np.random.default_rng(seed)
    positive, negative = generator.integers(0, 5, 13), generator.integers(0, 4, 17)
    assert len(np.intersect1d(positive, negative)) > 1
    assert auroc(positive, negative) == pytest.approx(count_wins(positive, negative))
    u = stats.mannwhitneyu(positive, negative).statistic
    assert auroc(positive, negative) == pytest.approx(u / (13 * 17))


def test_auroc_by_hand():
    assert auroc(np.array([3, 4]), np.array([2, 1, 0])) == 1
    assert auroc(np.array([0, 1]), np.array([2, 3])) == 0
    assert auroc(np.array([1, 1]), np.array([1, 1])) == 0.5
    assert auroc(np.array([2, 0]), np.array([0, 1])) == pytest.approx((1 + 1 + 0.5 + 0) / 4)


def test_auroc_leaves_what_it_is_given_as_it_is():
    positive, negative = np.array([3.0, 1.0, 2.0]), np.array([2.5, 0.5, 1.5])
    auroc(positive, negative)
    assert (positive.tolist(), negative.tolist()) == ([3.0, 1.0, 2.0], [2.5, 0.5, 1.5])


def delong_variance(positive, negative):
    """Pair by pair: DeLong, DeLong and Clarke-Pearson 1988, equation 5."""
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negative] for p in positive])
    return wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "with ties"])
def test_the_interval_of_auroc_has_delongs_variance(rounded):
    generator = np.random.default_rng(3)
    positive, negative = generator.standard_normal(12) + 0.8, generator.standard_normal(19)
    if rounded:
        positive, negative = positive.round(), negative.round()
    found = auroc_interval(positive, negative)
    half = 1.96 * delong_variance(positive, negative) ** 0.5
    assert found.value == pytest.approx(count_wins(positive, negative))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_of_auroc_agrees_with_a_bootstrap(shift):
    generator = np.random.default_rng(4)
    positive, negative = generator.standard_normal(60) + shift, generator.standard_normal(80)
    found = auroc_interval(positive, negative)
    drawn = [auroc(generator.choice(positive, 60), generator.choice(negative, 80)) for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


def test_the_interval_of_auroc_stays_within_0_and_1():
    found = auroc_interval(np.array([3.0, 4.0, 1.0]), np.array([2.0, 0.0, -1.0]))
    assert 0 <= found.low < found.value < found.high == 1


@pytest.mark.parametrize(("positive", "negative"), [([2.0], [1.0, 3.0]), ([1.0, 3.0], [2.0])])
def test_auroc_with_a_single_text_on_a_side_has_no_interval(positive, negative):
    assert auroc_interval(np.array(positive), np.array(negative)) == Interval(0.5, None, None)
