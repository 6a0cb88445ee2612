"""Selection rules choose and order neurons, and what is not chosen counts at most as the median neuron."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest
import torch

from atlas.errors import AtlasError, UnknownName
from atlas.models.codec import Code
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.steering.methods import METHODS
from atlas.steering.selection import RULES, select_neurons
from atlas.steering.settings import Options
from atlas.steering.targets import make_target

NULL = None
SIGNALS = {  # neuron: 0 1 2 3 4 5 6 7; neuron 2 has no score
    "score": [0.9, 0.1, NULL, 0.5, 1.0, 0.7, 0.5, 0.0],
    "z": [-3.0, -5.0, -9.0, -1.0, -2.0, NULL, -1.9, 4.0],
    "output": [0.2, 0.6, 0.9, NULL, 0.4, 0.8, 0.1, NULL],
    "auroc": [0.7, 0.6, 0.9, 0.5, NULL, 0.95, 0.4, 0.8],
    "centroid_z": [-4.0, -2.0, -9.0, 0.0, -3.0, NULL, -1.0, 5.0],
}
Z_VALUES = [7 / 9, 1, 0, 5 / 9, 6 / 9, 0, 5.9 / 9, 0]  # -z from -4 to 5 mapped to [0, 1]
CASES = {  # the chosen, best first, and every neuron's value; of two alike the lower number is first
    "score": ([4, 0, 5, 3, 6, 1, 7], [0.9, 0.1, 0, 0.5, 1, 0.7, 0.5, 0]),
    "z": ([1, 0, 4, 6, 3, 7], Z_VALUES),
    "remarkable": ([4, 0, 1], [0.9, 0.1, 0, 0.5, 1, 0.5, 0.5, 0]),  # not chosen: at most the median, 0.5
    "writes": ([1, 4], [(5.9 + 6) / 18, 1, 0, 5 / 9, 6 / 9, 0, 5.9 / 9, 0]),  # z -2 or less and output 0.4 or more
    "combined": ([0, 1], [0.7, 0.6, 0, 0.5, 0, 0.65, 0.4, 0.65]),
    "centroid": ([0, 4, 1, 6, 3, 7], [1, 7 / 9, 0, 5 / 9, 8 / 9, 0, 6 / 9, 0]),
    "centroid-combined": ([0, 1], [0.7, 0.6, 0, 0.5, 0, 0.65, 0.4, 0.65]),
    # auroc less its mean 0.6583 over its deviation 0.2010, less centroid_z less -0.8333 over 3.1885, from -1.2327 to 1.2004
    "centroid-joint": (
        [0, 1, 3, 7, 6],
        [np.float64(1.0), np.float64(0.537769), 0, np.float64(0.075537), 0, 0, np.float64(0.0), np.float64(0.044352)],
    ),
}


def make_frame(**signals):
    columns = {"se": [0.1] * 8, "density": [0.1] * 8, "max_activation": [2.0] * 8}
    return pl.DataFrame(
        {"neuron": range(8), **columns, **SIGNALS, **signals},
        schema_overrides=dict.fromkeys(SIGNALS, pl.Float64),
    )


def test_every_rule_has_a_case_here():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_what_its_help_says_best_first(rule):
    _, best = select_neurons(make_frame(), rule)
    assert best.tolist() == CASES[rule][0]
    assert RULES[rule].help


def test_a_null_signal_is_not_chosen_and_takes_no_part_in_the_median():
    frame = make_frame(output=[0.2, 0.6, 0.9, NULL, NULL, 0.8, NULL, NULL])
    assert select_neurons(frame, "writes")[1].tolist() == [1]
    assert select_neurons(make_frame(auroc=[0.7, *[NULL] * 7]), "combined")[1].tolist() == [0]


@pytest.mark.parametrize("rule", RULES)
def test_chosen_neurons_keep_their_value_and_the_rest_count_at_most_as_the_median_neuron(rule):
    frame = make_frame()
    values, _ = select_neurons(frame, rule)
    assert values.dtype == np.float32
    assert values.tolist() == pytest.approx(CASES[rule][1])
    assert frame.equals(make_frame()), "the frame is left as it is"


@pytest.mark.parametrize("rule", RULES)
def test_values_are_in_0_to_1_and_fall_along_the_chosen(rule):
    values, best = select_neurons(make_frame(), rule)
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values[best]) <= 0).all()
    assert values[2] == 0 and 2 not in best, "a neuron without a score has none"


@pytest.mark.parametrize(
    ("rule", "column", "scorer"),
    [
        ("remarkable", "z", "with --null-topics 64"),
        ("writes", "output", "--scorer output"),
        ("z", "z", "with --null-topics 64"),
        ("writes", "z", "with --null-topics 64"),
        ("combined", "z", "with --null-topics 64"),
        ("combined", "auroc", "--scorer contrast"),
        ("centroid", "centroid_z", "--scorer centroid"),
    ],
)
def test_a_missing_signal_is_said_with_the_command_that_makes_it(rule, column, scorer):
    with pytest.raises(AtlasError) as caught:
        select_neurons(make_frame(**{column: [NULL] * 8}), rule)
    assert str(caught.value).startswith(
        f"selection rule {rule!r} needs {column}: run `atlas score` {scorer} for the topic"
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


@pytest.mark.parametrize(("rule", "taken"), [("score", [0, 4, 5]), ("z", [0, 1, 4])])
def test_where_all_else_is_equal_swap_takes_the_neurons_of_highest_value(rule, taken):
    target = make_target(make_frame(), neutral=False, select=rule)
    edit = METHODS["swap"].edit(Alike(), torch.ones(1, 8), target, Options(sigma="topk"))
    assert edit.acts[0].nonzero().squeeze(-1).tolist() == taken


def test_a_target_takes_the_rules_values_and_best_neurons():
    target = make_target(make_frame(), neutral=False, select="remarkable")
    assert target.best.tolist() == CASES["remarkable"][0]
    assert target.scores.tolist() == pytest.approx(CASES["remarkable"][1])
    neutral = make_target(make_frame(), neutral=True, select="remarkable")
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
