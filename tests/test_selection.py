"""Selection rules choose neurons by their signals, and what is not chosen steers no more than the median neuron."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest
import torch

from atlas.codec import Code
from atlas.errors import AtlasError, UnknownName
from atlas.methods import METHODS, Options, Target
from atlas.score import ScoringConfig, score_topics
from atlas.selection import RULES, select_neurons
from atlas.steerer import make_target

NULL = None
SIGNALS = {  # neuron: 0 1 2 3 4 5 6 7
    "score": [0.9, 0.1, NULL, 0.5, 1.0, 0.7, 0.5, 0.0],
    "z": [-3.0, -5.0, -9.0, -1.0, -2.0, NULL, -1.9, 4.0],
    "output": [0.2, 0.6, 0.9, NULL, 0.4, 0.8, 0.1, NULL],
}
CHOSEN = {  # best first; of two alike the lower number; median output of the scored: 0.4
    "score": [4, 0, 5, 3, 6, 1, 7],
    "remarkable": [4, 0, 1],
    "writes": [4, 5, 1],
    "combined": [4, 1],
}
MEDIAN = 0.5  # of the scores


def make_frame(**signals):
    columns = {"se": [0.1] * 8, "auroc": [0.5] * 8, "density": [0.1] * 8, "max_activation": [2.0] * 8}
    return pl.DataFrame(
        {"neuron": range(8), **columns, **SIGNALS, **signals},
        schema_overrides=dict.fromkeys(SIGNALS, pl.Float64),
    )


def test_every_rule_has_a_case_here():
    assert set(CHOSEN) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_what_its_help_says_best_first(rule):
    _, best = select_neurons(make_frame(), rule)
    assert best.tolist() == CHOSEN[rule]
    assert RULES[rule].help


def test_a_null_signal_is_not_chosen_and_takes_no_part_in_the_median():
    frame = make_frame(output=[0.2, 0.6, 0.9, NULL, NULL, 0.8, NULL, NULL])
    assert select_neurons(frame, "writes")[1].tolist() == [5, 1]


def test_without_a_rule_scores_are_kept_and_null_becomes_0():
    scores, _ = select_neurons(make_frame(), "score")
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([0.9, 0.1, 0, 0.5, 1, 0.7, 0.5, 0])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "score"])
def test_a_neuron_that_is_not_chosen_counts_at_most_as_the_median_neuron(rule):
    frame = make_frame()
    scores, best = select_neurons(frame, rule)
    for neuron, score in enumerate(SIGNALS["score"]):
        own = score or 0
        assert scores[neuron] == pytest.approx(own if neuron in best else min(own, MEDIAN)), neuron
    assert frame.equals(make_frame()), "the frame is left as it is"


@pytest.mark.parametrize(
    ("rule", "column", "scorer"),
    [
        ("remarkable", "z", "with --null-topics 64"),
        ("writes", "output", "--scorer output"),
        ("combined", "z", "with --null-topics 64"),
        ("combined", "output", "--scorer output"),
    ],
)
def test_a_missing_signal_is_said_with_the_command_that_makes_it(rule, column, scorer):
    with pytest.raises(AtlasError) as caught:
        select_neurons(make_frame(**{column: [NULL] * 8}), rule)
    assert (
        str(caught.value) == f"selection rule {rule!r} needs {column}: run `atlas score` {scorer} for the topic first"
    )


def test_a_signal_that_only_neurons_without_a_score_have_is_missing():
    with pytest.raises(AtlasError, match="needs z"):
        select_neurons(make_frame(z=[NULL, NULL, -3.0, *[NULL] * 5]), "remarkable")


def test_a_rule_that_leaves_no_neuron_says_so():
    with pytest.raises(AtlasError, match=r"^selection rule 'remarkable' leaves no neuron of 7: use another rule$"):
        select_neurons(make_frame(z=[1.0] * 8), "remarkable")


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(UnknownName, match="unknown selection rule 'remarkible': known are remarkable, "):
        select_neurons(make_frame(), "remarkible")


class Alike:
    """A codec over one token: three neurons are active, and all pre-activations are equal."""

    signed, threshold = False, 1.0

    def encode(self, x, weights=None):
        acts = torch.zeros(1, 8)
        acts[0, [2, 6, 7]] = 1
        return Code(acts, torch.ones(1, 8), None, {}, 1.0)


@pytest.mark.parametrize(("rule", "always", "may_fill"), [("score", {4, 0, 5}, set()), ("combined", {4}, {0, 3, 5, 6})])
def test_where_all_else_is_equal_swap_takes_the_chosen_neurons_and_then_the_median_ones(rule, always, may_fill):
    target = make_target(make_frame(), neutral=False, select=rule)
    edit = METHODS["swap"].edit(Alike(), torch.ones(1, 8), target, Options(sigma="topk"))
    taken = set(edit.acts[0].nonzero().squeeze(-1).tolist())
    assert len(taken) == 3
    assert always <= taken <= always | may_fill


def test_a_target_takes_the_rules_scores_and_best_neurons():
    target = make_target(make_frame(), neutral=False, select="combined")
    assert isinstance(target, Target)
    assert target.best.tolist() == CHOSEN["combined"]
    assert target.scores.tolist() == pytest.approx([0.5, 0.1, 0, 0.5, 1, 0.5, 0.5, 0])
    neutral = make_target(make_frame(), neutral=True, select="combined")
    assert neutral.scores.tolist() == [1] * 8 and neutral.best.tolist() == list(range(8))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two SAEs, one topic with and one without z."""
    rng = np.random.default_rng(0)
    raw = handmade.random_raw(rng, 60, 30)
    vectors = handmade.unit_vectors(rng, 60)
    store = handmade.make_store(
        tmp_path_factory.mktemp("selection") / "x.atlas", [raw, raw[:, :, ::-1].copy()], vectors
    )
    topics, embed = handmade.make_topics(rng, known=3, plain=4)
    for name, null_topics in (("known", 20), ("plain", 0)):
        config = ScoringConfig(min_support=5, null_topics=null_topics)
        score_topics(store, {name: topics[name]}, embed=embed, config=config)
    return store


def columns_of(store, topic, key):
    with store.read() as session:
        scoring_id = session.sql(
            "select scoring_id from scorings join topics using (topic_id) where name = $t and sae_key = $k",
            t=topic,
            k=key,
        ).item()
        return session.ask("steering_columns", sae_key=key, scoring_id=scoring_id)


def test_the_stores_columns_feed_a_rule(scored):
    frames = [columns_of(scored, "known", key) for key in (0, 1)]
    for frame in frames:
        assert frame["neuron"].to_list() == list(range(30))
        _, best = select_neurons(frame, "score")
        ranked = frame["score"].fill_null(-1).to_numpy()[best]
        assert (np.diff(ranked) <= 0).all() and len(best) == frame["score"].count() < 30
    assert select_neurons(frames[0], "score")[1].tolist() == [29 - i for i in select_neurons(frames[1], "score")[1]]


def test_a_topic_scored_without_z_has_none_to_choose_by(scored, tmp_path):
    with pytest.raises(AtlasError, match="needs z: run `atlas score` with --null-topics 64"):
        select_neurons(columns_of(scored, "plain", 0), "remarkable")


def test_neurons_are_chosen_by_the_stores_z(scored):
    frame = columns_of(scored, "known", 0)
    lowest = frame.sort("z", nulls_last=True).head(3)
    shifted = frame.with_columns(z=pl.col("z") - lowest["z"].max() - 2)
    assert frame["z"].null_count() < frame.height
    _, best = select_neurons(shifted, "remarkable")
    assert sorted(best.tolist()) == sorted(lowest["neuron"].to_list())
