"""Means and AUROC have the value and the interval that SciPy, counting and resampling give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from atlas.auroc import auroc
from atlas.evaluation.intervals import Interval, auroc_interval, mean_interval


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


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval([0.5]) == Interval(0.5, None, None)
    assert mean_interval([]) is None


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


def draw(generator, area, counts):
    """Values of two normal distributions whose true AUROC is `area`."""
    distance = stats.norm.ppf(area) * 2**0.5
    return generator.standard_normal(counts[0]) + distance, generator.standard_normal(counts[1])


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "with ties"])
@pytest.mark.parametrize("area", [0.5, 0.75])
def test_the_interval_of_auroc_agrees_with_a_bootstrap(area, rounded):
    generator = np.random.default_rng(4)
    positive, negative = draw(generator, area, (60, 80))
    if rounded:
        positive, negative = positive.round(), negative.round()
    found = auroc_interval(positive, negative)
    drawn = [auroc(generator.choice(positive, 60), generator.choice(negative, 80)) for _ in range(2000)]
    assert found.value == pytest.approx(count_wins(positive, negative))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


@pytest.mark.parametrize("area", [0.6, 0.95, 0.99])
def test_the_interval_of_auroc_covers_the_true_area(area):
    generator = np.random.default_rng(5)
    found = [auroc_interval(*draw(generator, area, (24, 120))) for _ in range(500)]
    assert 0.94 <= np.mean([one.low <= area <= one.high for one in found]) <= 0.995


@pytest.mark.parametrize("seed", range(4))
def test_both_ends_of_aurocs_interval_are_a_value_apart_in_their_own_standard_errors(seed):
    generator = np.random.default_rng(seed)
    m, n = generator.integers(2, 60, 2)
    found = auroc_interval(*draw(generator, 0.8, (m, n)))
    for area in (found.low, found.high):
        spread = 1 + ((m + n) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        error = (area * (1 - area) * spread / (m * n)) ** 0.5
        assert abs(found.value - area) == pytest.approx(1.96 * error, abs=1e-6)


def test_aurocs_interval_is_its_mirror_image_when_the_sides_change_places():
    positive, negative = draw(np.random.default_rng(6), 0.9, (15, 40))
    one, other = auroc_interval(positive, negative), auroc_interval(negative, positive)
    assert (other.low, other.value, other.high) == pytest.approx((1 - one.high, 1 - one.value, 1 - one.low))


@pytest.mark.parametrize("counts", [(3, 4), (24, 120)])
def test_a_perfect_auroc_is_not_certain(counts):
    found = auroc_interval(np.arange(counts[0]) + 10, np.arange(-counts[1], 0))
    assert (found.value, found.high) == (1, 1)
    assert 1 - 4 / min(counts) < found.low < 1 - 1 / (5 * min(counts))


@pytest.mark.parametrize(("positive", "negative"), [([2.0], [1.0, 3.0]), ([1.0, 3.0], [2.0])])
def test_auroc_with_a_single_text_on_a_side_has_no_interval(positive, negative):
    assert auroc_interval(np.array(positive), np.array(negative)) == Interval(0.5, None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_mean_with_a_value_that_is_no_number_is_no_mean(bad):
    assert mean_interval([1.0, bad, 2.0]) is None
    assert mean_interval([bad]) is None


@pytest.mark.parametrize("counts", [(1, 1), (1, 5), (2, 2), (3, 40), (400, 300)])
@pytest.mark.parametrize("case", ["all ties", "all above", "all below", "one tie"])
def test_the_interval_of_an_area_is_made_of_numbers_between_0_and_1_whatever_is_compared(counts, case):
    positive, negative = np.zeros(counts[0]), np.zeros(counts[1])
    positive[: 1 if case == "one tie" else None] += {"all ties": 0, "all above": 1, "all below": -1, "one tie": 1}[case]
    found = auroc_interval(positive, negative)
    assert found.value == pytest.approx(count_wins(positive, negative), rel=1e-12)
    if min(counts) > 1:
        assert 0 <= found.low <= found.value <= found.high <= 1
    else:
        assert found[1:] == (None, None)
