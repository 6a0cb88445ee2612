"""The strength that calibration picks, and who takes it."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny

import atlas
from atlas.errors import AtlasError
from atlas.evaluation.calibrate import LEAST_DISTINCT, MOST_PERPLEXITY, RULE, calibrate_method, pick
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, prepare_evaluator
from atlas.evaluation.runs import MethodSetting
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.steering.methods import settle_options
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.steer import steer_prompts
from atlas.texts.pairs import pair_texts

PAIRS = pair_texts(tiny.PROMPTS[15:20], tiny.PROMPTS[30:36])
SAMPLING = Sampling(max_new_tokens=4)
CONFIG = EvaluationConfig(samples=1, select="score", sampling=SAMPLING)


def figures(distance, perplexity=10.0, distinct=0.9):
    return {"distance_topic": distance, "perplexity": perplexity, "distinct_2": distinct}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([figures(1.2), figures(1.1), figures(1.0)], 3.0),
        ([figures(1.2), figures(1.1), figures(1.0, perplexity=10 * MOST_PERPLEXITY + 0.1)], 2.0),
        ([figures(1.2), figures(1.1, distinct=0.9 * LEAST_DISTINCT - 0.01), figures(1.15)], 3.0),
        ([figures(1.0, perplexity=99.0), figures(1.1, perplexity=99.0), figures(1.2, distinct=0.1)], None),
    ],
)
def test_the_rule_picks_the_closest_within_its_limits(found, expected):
    assert pick([figures(1.3), *found], [0.0, 1.0, 2.0, 3.0]) == expected
    assert str(MOST_PERPLEXITY) in RULE and str(LEAST_DISTINCT) in RULE


@pytest.fixture(scope="module")
def opened(built_atlas, tmp_path_factory, encoder):
    found = atlas.open(shutil.copy(built_atlas, tmp_path_factory.mktemp("calibrate") / "x.atlas"))
    found.score("sea", tiny.SEA, min_support=2)
    return found


@pytest.fixture(scope="module")
def recorded(opened):
    return RecordedModels(opened.store)


@pytest.fixture
def evaluator(opened, recorded, encoder):
    data = EvaluationSet(["Waves broke over the bow."], ["He paid."], ["The doctor", "Rain"])
    return prepare_evaluator(opened.store, "sea", data, CONFIG, recorded=recorded, encoder=encoder)


def test_the_curve_and_the_picked_strength_are_stored_and_steer_takes_it(opened, evaluator, recorded, monkeypatch):
    monkeypatch.setattr("atlas.evaluation.calibrate.pick", lambda found, strengths: strengths[2])
    setting = MethodSetting("clamp", Options(neurons=2))
    curve, picked = calibrate_method(evaluator, setting, strengths=[0.5, 1.5, 2.5])
    assert picked == 1.5
    assert curve["strength"].unique().sort().to_list() == [0.0, 0.5, 1.5, 2.5]
    stored = opened.sql("from calibrations").to_dicts()
    assert [(row["topic"], row["method"], row["strength"], row["rule"]) for row in stored] == [
        ("sea", "clamp", 1.5, RULE)
    ]
    runs = opened.sql("select method, parameters from runs order by run_id").rows()
    doses = [json.loads(parameters)["options"]["strength"] for _, parameters in runs]
    assert doses == [None, 0.5, 1.5, 2.5]

    def strength(given=Options(neurons=2), keep_error=True):
        settings = SteeringSettings(select="score", keep_error=keep_error)
        prepared = prepare_steering(recorded, "sea", {"clamp": given}, settings=settings)
        return steer_prompts(prepared, ["Rain"], sampling=SAMPLING, save=False)[0].strength

    assert strength() == 1.5
    assert strength(Options(3.0, 2)) == 3.0
    assert strength(settle_options("clamp", Options(neurons=2))) == 10.0  # its default, asked for
    assert strength(Options(neurons=3)) == 10.0  # picked under other conditions
    assert strength(keep_error=False) == 10.0

    def in_python(**changes):
        model, tokenizer = recorded.model
        settings = {"method": "clamp", "neurons": 2, "select": "score", "tokenizer": tokenizer} | changes
        return opened.steer(model, "sea", **settings).options.strength

    assert [in_python(), in_python(strength=3.0), in_python(neurons=3)] == [1.5, 3.0, 10.0]


@pytest.fixture(scope="module")
def picked(built_atlas, tmp_path_factory, encoder):
    """An atlas where 1.5 was picked for sas and 2.5 for filtered on topic sea, and its models."""
    found = atlas.open(shutil.copy(built_atlas, tmp_path_factory.mktemp("vectors") / "x.atlas"))
    for topic, texts in (("sea", tiny.SEA), ("medicine", tiny.MEDICINE)):
        found.score(topic, texts, min_support=2)
    found.contrast("sailing", PAIRS, tau=0.3, position="mean")
    found.contrast("other", PAIRS.rows()[:3], tau=0.3, position="mean")
    recorded = RecordedModels(found.store)
    data = EvaluationSet(["Waves broke over the bow."], ["He paid."], ["The doctor", "Rain"])
    evaluator = prepare_evaluator(
        found.store, "sea", data, CONFIG, recorded=recorded, encoder=encoder, vectors=["sailing"]
    )
    with pytest.MonkeyPatch.context() as patch:
        for method, best in (("sas", 1), ("filtered", 2)):
            patch.setattr("atlas.evaluation.calibrate.pick", lambda figures, strengths, best=best: strengths[best + 1])
            calibrate_method(evaluator, MethodSetting(method), strengths=[0.5, 1.5, 2.5])
    return found, recorded


class TestVectors:
    """A vector's strength is picked on a topic's texts and taken wherever that vector steers."""

    def strength(self, picked, method, topic=None, *, given=Options(), vectors=("sailing",), **settings):
        shared = SteeringSettings(**{"select": "score", **settings})
        prepared = prepare_steering(picked[1], topic, {method: given}, settings=shared, vectors=vectors)
        return steer_prompts(prepared, ["Rain"], sampling=SAMPLING, save=False)[0].strength

    def test_it_is_kept_under_the_behaviours_name_with_the_topic_in_the_rule(self, picked):
        stored = picked[0].sql("from calibrations").to_dicts()
        assert [(row["topic"], row["method"], row["strength"]) for row in stored] == [
            ("sailing", "sas", 1.5), ("sailing", "filtered", 2.5),
        ]  # fmt: skip
        assert all(row["rule"] == f"on topic 'sea': {RULE}" for row in stored)

    def test_it_is_taken_with_and_without_a_topic(self, picked):
        assert [self.strength(picked, "sas", topic) for topic in (None, "sea", "medicine")] == [1.5] * 3
        assert self.strength(picked, "sas", given=Options(-3.0)) == -3.0

    def test_a_method_that_weighs_by_a_topics_scores_takes_it_for_that_topic_alone(self, picked):
        assert [self.strength(picked, "filtered", topic) for topic in ("sea", "medicine", None)] == [2.5, 1.0, 1.0]
        assert self.strength(picked, "filtered", "sea", select="z") == 1.0

    def test_it_does_not_hold_for_another_vector_sum_or_setting(self, picked):
        assert self.strength(picked, "sas", vectors=["other"]) == 1.0
        assert self.strength(picked, "sas", vectors=["other", "sailing"]) == 1.0
        assert self.strength(picked, "sas", positions="generated") == 1.0
        assert self.strength(picked, "sas", given=Options(sigma="relu")) == 1.0
        assert self.strength(picked, "dense") == 1.0

    def test_it_does_not_hold_for_the_vector_made_anew_and_holds_again_when_the_first_is_current(self, picked):
        for tau, strength in ((0.9, 1.0), (0.3, 1.5)):
            picked[0].contrast("sailing", PAIRS, tau=tau, position="mean")
            assert self.strength(picked, "sas", given=Options(sigma="none")) == 1.0
            assert self.strength(picked, "sas") == strength


def test_nothing_is_stored_as_picked_when_every_strength_breaks_the_limits(opened, evaluator, monkeypatch):
    monkeypatch.setattr("atlas.evaluation.calibrate.pick", lambda found, strengths: None)
    before = opened.sql("from calibrations").height
    assert calibrate_method(evaluator, MethodSetting("add"), strengths=[1.0])[1] is None
    assert opened.sql("from calibrations").height == before


def test_a_method_without_strength_is_refused(evaluator):
    with pytest.raises(AtlasError, match="method swap has no strength to calibrate: use one of clamp"):
        calibrate_method(evaluator, MethodSetting("swap"))


@pytest.mark.parametrize("left_out", ["distance_topic", "perplexity", "distinct_2"])
def test_a_strength_whose_texts_lack_a_figure_is_not_picked(left_out):
    plain = {"distance_topic": 1.3, "perplexity": 10.0, "distinct_2": 1.0}
    closer = {**plain, "distance_topic": 1.0}
    closest = {**plain, "distance_topic": 0.5}
    del closest[left_out]
    assert pick([plain, closer, closest], [0.0, 1.0, 2.0]) == 1.0
    assert pick([closest, closer], [0.0, 1.0]) is None
