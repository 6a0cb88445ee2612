"""A control moves the scores and nothing else, by rules that cannot know the topic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.evaluation.controls import CONTROLS, PERMUTATIONS, STRATUM, control_target, control_vectors
from atlas.steering.methods import Target

NEURONS = 2000
UNSCORED = np.arange(0, NEURONS, 7)
SCORED = np.setdiff1d(np.arange(NEURONS), UNSCORED)


@pytest.fixture(scope="module")
def support():
    return (10 ** np.random.default_rng(0).uniform(0, 3.5, NEURONS)).astype(np.uint32)


@pytest.fixture(scope="module")
def norm():
    return np.random.default_rng(1).uniform(0.2, 2.0, NEURONS).astype(np.float32)


@pytest.fixture(scope="module")
def target():
    """Scores all different; 0 and not among the best where there is none."""
    scores = torch.from_numpy(np.random.default_rng(2).permutation(NEURONS).astype(np.float32) + 1) / NEURONS
    scores[UNSCORED] = 0
    best = torch.from_numpy(SCORED)[scores[SCORED].argsort(descending=True)]
    return Target(scores, torch.rand(NEURONS, generator=torch.Generator().manual_seed(3)), best)


@pytest.fixture(params=CONTROLS)
def name(request):
    return request.param


def moved_from(target, controlled):
    """The neuron whose score each scored neuron got; scores are all different."""
    place = {float(score): i for i, score in enumerate(target.scores) if score > 0}
    return np.array([place[float(controlled.scores[i])] for i in SCORED])


def test_the_scores_are_a_permutation_of_the_old_ones(target, support, norm, name):
    controlled = control_target(target, name, support, norm, seed=0)
    assert torch.equal(controlled.scores.sort().values, target.scores.sort().values)
    assert (moved_from(target, controlled) == SCORED).mean() < 0.1


def test_a_neuron_without_a_score_stays_without_one(target, support, norm, name):
    controlled = control_target(target, name, support, norm, seed=0)
    assert (controlled.scores[UNSCORED] == 0).all()
    assert np.intersect1d(controlled.best.numpy(), UNSCORED).size == 0


def test_the_best_neurons_are_those_with_the_highest_scores(target, support, norm, name):
    controlled = control_target(target, name, support, norm, seed=0)
    ranked = controlled.scores[controlled.best]
    assert sorted(controlled.best.tolist()) == SCORED.tolist()
    assert (ranked[1:] < ranked[:-1]).all()
    assert not torch.equal(controlled.best, target.best)


def test_the_target_itself_and_the_largest_activations_are_left_alone(target, support, norm, name):
    before = (target.scores.clone(), target.best.clone())
    controlled = control_target(target, name, support, norm, seed=0)
    assert torch.equal(target.scores, before[0]) and torch.equal(target.best, before[1])
    assert torch.equal(controlled.max_activation, target.max_activation)


def test_the_seed_decides(target, support, norm, name):
    first, again, other = (control_target(target, name, support, norm, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.scores, again.scores) and torch.equal(first.best, again.best)
    assert not torch.equal(first.scores, other.scores)


@pytest.mark.parametrize("count", [SCORED.size, 60])
def test_a_matched_score_comes_from_a_neuron_of_like_support_and_norm(target, support, norm, count):
    few = Target(target.scores.clone(), target.max_activation, target.best)
    few.scores[np.setdiff1d(np.arange(NEURONS), SCORED[:count])] = 0
    few = Target(few.scores, few.max_activation, target.best[torch.isin(target.best, torch.from_numpy(SCORED[:count]))])
    gaps = {}
    for control in CONTROLS:
        controlled = control_target(few, control, support, norm, seed=0)
        place = {float(score): i for i, score in enumerate(few.scores) if score > 0}
        own = SCORED[:count]
        source = np.array([place[float(controlled.scores[i])] for i in own])
        order = [values[own].argsort().argsort() for values in (support, norm)]
        place_of = dict(zip(own, range(count), strict=True))
        at = np.array([place_of[i] for i in source])
        gaps[control] = [np.abs(ranks - ranks[at]).mean() / count for ranks in order]
    for matched, shuffled in zip(gaps["random"], gaps["shuffled"], strict=True):
        assert shuffled == pytest.approx(1 / 3, abs=0.06)
        assert matched < (0.08 if count > STRATUM**2 else 0.26)


def test_where_all_norms_are_equal_scores_move_among_the_nearest_in_support(target, support):
    controlled = control_target(target, "random", support, np.ones(NEURONS), seed=0)
    ranks = np.empty(NEURONS)
    ranks[SCORED[support[SCORED].argsort(kind="stable")]] = np.arange(len(SCORED))
    assert np.abs(ranks[moved_from(target, controlled)] - ranks[SCORED]).max() < STRATUM


@pytest.mark.parametrize("count", [1, 2, STRATUM, STRATUM + 1])
def test_a_handful_of_scored_neurons_is_enough(support, norm, name, count):
    scores = torch.zeros(NEURONS)
    scores[:count] = torch.arange(1, count + 1) / count
    target = Target(scores, torch.ones(NEURONS), torch.arange(count).flip(0))
    controlled = control_target(target, name, support, norm, seed=0)
    assert sorted(controlled.best.tolist()) == list(range(count))
    assert (controlled.scores[controlled.best].diff() < 0).all()


def test_a_selection_of_neurons_is_not_handed_on_to_the_control(target, support, norm, name):
    """Which neurons a rule chose says much about the topic: a control that kept to them would know it."""
    chosen = target.best[:100]
    selected = Target(target.scores, target.max_activation, chosen)
    controlled = control_target(selected, name, support, norm, seed=0)
    assert len(controlled.best) == len(chosen)
    assert torch.isin(controlled.best, chosen).float().mean() < 0.3
    assert torch.equal(controlled.scores[controlled.best], target.scores[chosen])


@pytest.fixture(scope="module")
def steered(target):
    """The target with vectors, whose entries are all different where there are any."""
    generator = torch.Generator().manual_seed(4)
    sas = torch.rand(NEURONS, generator=generator) * (torch.rand(NEURONS, generator=generator) < 0.1)
    difference, dense = torch.randn(NEURONS, generator=generator), torch.randn(64, generator=generator)
    return target.with_vectors(sas=sas, difference=difference, dense=dense)


def test_a_vectors_entries_move_to_other_neurons_and_the_scores_that_weigh_them_with_them(steered, support, norm, name):
    moved = control_vectors(steered, name, support, norm, seed=0)
    for own, other in [
        (steered.scores, moved.scores),
        *((steered.vector(kind), moved.vector(kind)) for kind in ("sas", "difference")),
    ]:
        assert torch.equal(own.sort().values, other.sort().values)
        assert (own == other)[own != 0].float().mean() < 0.1
    weighed = [(one.scores * one.vector("difference")).sort().values for one in (steered, moved)]
    assert torch.equal(*weighed)


def test_a_matched_entry_is_of_a_neuron_of_like_support(steered, support, norm):
    ranks = support.argsort(kind="stable").argsort()
    gaps = {}
    for control in CONTROLS:
        place = {float(value): i for i, value in enumerate(steered.vector("difference"))}
        moved = control_vectors(steered, control, support, norm, seed=0).vector("difference")
        source = np.array([place[float(value)] for value in moved])
        gaps[control] = np.abs(ranks - ranks[source]).mean() / NEURONS
    assert gaps["random"] < 0.05 < 0.3 < gaps["shuffled"]


def test_a_dense_vector_keeps_its_length_and_loses_its_direction(steered, support, norm, name):
    moved = [control_vectors(steered, name, support, norm, seed=seed).vector("dense") for seed in range(PERMUTATIONS)]
    for dense in moved:
        assert float(dense.norm()) == pytest.approx(float(steered.vector("dense").norm()), rel=1e-5)
        assert abs(float(torch.cosine_similarity(dense, steered.vector("dense"), dim=0))) < 0.5
    assert torch.equal(moved[0].sort().values, steered.vector("dense").sort().values) is (name == "shuffled")
    assert not torch.equal(moved[0], moved[1])
    assert torch.equal(control_vectors(steered, name, support, norm, seed=0).vector("dense"), moved[0])
