"""Do a topic's neurons find texts about it that it was not scored by? (method: section 6, point 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas.auroc import auroc
from atlas.evaluation.intervals import Interval, auroc_interval
from atlas.evaluation.layer_level import activity
from atlas.models.loaded import LoadedModel
from atlas.steering.methods import SteeredSae

BEST = 20  # neurons that detection sums
DRAWS = 200  # random sets of neurons it is compared with


@dataclass(frozen=True)
class Activity:
    """Mean activation per token of every neuron [text, d_sae].

    Attributes:
        own: of held-out texts about the topic.
        others: name -> of texts that are not about it, such as "everyday" and "topics".
    """

    own: np.ndarray
    others: Mapping[str, np.ndarray]


def measure_activity(
    model: LoadedModel,
    sae: SteeredSae,
    own: Sequence[str],
    others: Mapping[str, Sequence[str]],
) -> Activity:
    """Run the plain model over held-out texts and over sets of other texts; empty sets are left out."""

    def run(texts: Sequence[str]) -> np.ndarray:
        return activity(model, sae, texts)

    return Activity(run(own), {name: run(texts) for name, texts in others.items() if texts})


def detect(texts: Activity, best: np.ndarray) -> dict[str, Interval]:
    """AUROC of held-out texts against each set of others by the summed activation of some neurons; nothing without any."""
    if not len(best):
        return {}
    others = {f"auroc_{name}": other[:, best].sum(1) for name, other in texts.others.items()}
    return detect_by_sums(texts.own[:, best].sum(1), others)


def detect_by_sums(own: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """AUROC of texts against each set of others by a figure of each text, such as the summed activation of some neurons."""
    return {name: auroc_interval(own, other) for name, other in others.items()}


def detect_at_random(
    texts: Activity, support: np.ndarray, ranked: np.ndarray, best: np.ndarray, seed: int
) -> dict[str, Interval]:
    """AUROC by random neurons matched to the best in support: the mean of DRAWS draws, and where 95 % of them lie.

    Nothing when there is no neuron beside the best.

    Args:
        support: prompts per neuron [d_sae].
        ranked: the neurons that have a score.
        best: the neurons to match.
    """
    found: dict[str, Interval] = {}
    if not len(best) or not np.setdiff1d(ranked, best).size:  # nothing to match, or nothing to match it with
        return found
    draws = matched_neurons(support, ranked, best, np.random.default_rng(seed), DRAWS)
    for name, other in texts.others.items():
        areas = np.array([auroc(texts.own[:, drawn].sum(1), other[:, drawn].sum(1)) for drawn in draws])
        low, high = np.quantile(areas, [0.025, 0.975])
        found[f"auroc_{name}"] = Interval(float(areas.mean()), float(low), float(high))
    return found


def matched_neurons(
    support: np.ndarray, ranked: np.ndarray, best: np.ndarray, generator: np.random.Generator, draws: int
) -> np.ndarray:
    """For each of the best neurons another one that has a score, at random among the 50 nearest to it in support.

    Returns:
        Neurons [draw, best].
    """
    others = np.setdiff1d(ranked, best)
    size = support.astype(float)
    nearest = [others[np.argsort(np.abs(size[others] - size[b]), kind="stable")[:50]] for b in best]
    return np.column_stack([generator.choice(some, draws) for some in nearest])
