"""Detection of held-out texts by a topic's neurons, and what it is compared with, on made-up activity."""

from __future__ import annotations

import numpy as np

from atlas.auroc import auroc
from atlas.evaluation.detection import DRAWS, Activity, detect, detect_at_random, matched_neurons


def test_neurons_that_find_the_topic_are_told_from_those_that_do_not():
    own, other = np.zeros((10, 4)), np.zeros((12, 4))
    own[:, 0], other[:, 1] = 1, 1
    for best, value in (([0], 1), ([1], 0), ([2, 3], 0.5), ([0, 1], 0.5)):
        assert detect(Activity(own, {"everyday": other}), np.array(best))["auroc_everyday"].value == value
    assert set(detect(Activity(own, {"everyday": other, "topics": other}), np.array([0]))) == {
        "auroc_everyday",
        "auroc_topics",
    }


def test_matched_neurons_have_a_score_are_not_the_best_and_are_near_in_support():
    generator = np.random.default_rng(0)
    support = generator.integers(1, 5000, 1000)
    ranked = generator.permutation(1000)[:800]
    best = ranked[:20]
    found = matched_neurons(support, ranked, best, generator, 20)
    assert found.shape == (20, 20)
    assert not np.isin(found, best).any() and np.isin(found, ranked).all()
    others = np.setdiff1d(ranked, best)
    for column, neuron in zip(found.T, best, strict=True):
        reach = np.sort(np.abs(support[others] - support[neuron]))[49]
        assert (np.abs(support[column] - support[neuron]) <= reach).all()
        assert len(set(column)) > 8


def test_the_interval_at_random_holds_95_percent_of_the_draws():
    generator = np.random.default_rng(1)
    own, other = generator.random((12, 300)), generator.random((15, 300)) + generator.random(300) / 3
    support, ranked, best = generator.integers(1, 100, 300), np.arange(300), np.arange(7)
    found = detect_at_random(Activity(own, {"everyday": other, "topics": own}), support, ranked, best, seed=5)
    draws = matched_neurons(support, ranked, best, np.random.default_rng(5), DRAWS)
    areas = np.array([auroc(own[:, some].sum(1), other[:, some].sum(1)) for some in draws])
    value, low, high = found["auroc_everyday"]
    assert value == np.mean(areas)
    assert 0.94 <= ((low <= areas) & (areas <= high)).mean() <= 0.96
    assert areas.min() < low and high < areas.max()
    assert found["auroc_topics"].value == 0.5, "the same texts cannot be told apart"


def test_where_no_neuron_is_left_to_compare_with_there_is_no_figure_at_random():
    texts = Activity(np.ones((4, 2)), {"everyday": np.zeros((3, 2))})
    support, ranked = np.array([5, 5]), np.array([0, 1])
    assert detect_at_random(texts, support, ranked, ranked, seed=0) == {}
    assert detect_at_random(texts, support, ranked, np.array([], int), seed=0) == {}
    assert detect(texts, np.array([], int)) == {}
    assert detect_at_random(texts, support, ranked, np.array([0]), seed=0)["auroc_everyday"].value == 1
