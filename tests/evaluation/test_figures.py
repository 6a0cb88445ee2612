"""Names of figures: each is spelled as it always was, in what an evaluation and a trial of choices store."""

from __future__ import annotations

from dataclasses import fields

import pytest
import tiny

import atlas
from atlas.evaluation.choice_trial import ChoiceConfig, ChoiceSet
from atlas.evaluation.choices import evaluate_choices
from atlas.evaluation.evaluate import evaluate_methods
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, prepare_evaluator
from atlas.evaluation.figures import ALIGNED, AT_RANDOM, CODE_METRICS, SCORED, Figure
from atlas.evaluation.layer_level import LayerFigures
from atlas.evaluation.runs import MethodSetting
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.steering.settings import Options
from atlas.texts.pairs import collect_pairs

NAMES = {
    Figure("perplexity"): "perplexity",
    Figure("perplexity", minus="original"): "perplexity - original",
    Figure("perplexity", over="shuffled"): "perplexity / shuffled",
    Figure("changed_deviation", texts=ALIGNED): "changed_deviation on aligned",
    Figure("auroc_topics", sae_id="heads"): "auroc_topics (heads)",
    Figure("auroc_topics", ranking=SCORED, sae_id="heads"): "auroc_topics by score (heads)",
    Figure("auroc_everyday", ranking=AT_RANDOM): "auroc_everyday of random neurons",
    Figure("probability", after="The answer is"): "probability after 'The answer is'",
    Figure("shift", unrelated=True): "unrelated shift",
    Figure("perplexity ratio", unrelated=True): "unrelated perplexity ratio",
}
OF_TEXT = (
    "perplexity", "distance_topic", "distance_held_out", "distinct_1", "distinct_2", "contamination", "kept", "new", "dropped",
)  # fmt: skip
OF_CODE = ("changed", "reconstruction", "contamination", "changed_deviation")
PAIRS = [
    ("She", " took a pill.", " ate fish."), ("He", " had a fever.", " had a boat."), ("They", " gave a drug.", " won the race."),
    ("We", " saw the doctor.", " saw the sea."), ("I", " felt pain.", " felt wind."), ("You", " need rest.", " need salt."),
]  # fmt: skip


def test_the_metrics_of_code_are_those_that_layer_figures_have():
    assert tuple(field.name for field in fields(LayerFigures)) == CODE_METRICS == OF_CODE


@pytest.mark.parametrize("figure", NAMES, ids=str)
def test_a_figure_is_spelled_as_it_is_stored(figure):
    assert str(figure) == NAMES[figure]


def names_of_text(*against):
    """The names that a run's texts give, with the runs they are compared with."""
    differences = [f"{metric} - {other}" for metric in OF_TEXT for other in against]
    return {*OF_TEXT, *differences, *(f"perplexity / {other}" for other in against)}


def stored_names(opened):
    """method -> the names of its figures in the store, but for those of single texts."""
    rows = opened.sql("select distinct method, name from metrics join runs using (run_id) where generation_id is null")
    return {method: {name for of, name in rows.rows() if of == method} for method in rows["method"]}


def test_an_evaluation_stores_these_names(atlas_file, encoder):
    opened = atlas.open(atlas_file)
    opened.score("sea", ["Boats at sea.", "A ship sailed."], min_support=2)
    data = EvaluationSet(["The tide turned."], ["He ran home.", "It rains."], ["She", "It was late"], ["Nurses help."])
    config = EvaluationConfig(samples=1, select="z", sampling=Sampling(max_new_tokens=4))
    evaluator = prepare_evaluator(
        opened.store,
        "sea",
        data,
        config,
        sae_ids=["residual", "heads"],
        recorded=RecordedModels(opened.store),
        encoder=encoder,
    )
    frame = evaluate_methods(evaluator, [MethodSetting("swap"), MethodSetting("add", Options(0.5))])
    of_code = {f"{figure} on {texts}" for figure in OF_CODE for texts in ("aligned", "unaligned")}
    baselines = ("original", "sae")
    expected = {
        "detection": {
            f"auroc_{others}{ranking} ({sae_id})"
            for others in ("everyday", "topics")
            for ranking in ("", " by score", " of random neurons")
            for sae_id in ("residual", "heads")
        },
        "original": names_of_text("sae"),
        "sae": names_of_text("original") | of_code,
        "swap": names_of_text(*baselines, "shuffled") | of_code,
        "swap/shuffled": names_of_text(*baselines) | of_code,
        "swap/random": names_of_text(*baselines) | of_code,
        "add": names_of_text(*baselines, "shuffled"),
        "add/shuffled": names_of_text(*baselines),
        "add/random": names_of_text(*baselines),
    }
    assert stored_names(opened) == expected
    assert {method: set(frame.filter(method=method)["name"]) for method in expected} == expected


def test_a_trial_of_choices_stores_these_names(atlas_file):
    opened = atlas.open(atlas_file)
    unrelated = collect_pairs([("It is", " raining.", " snowing.")])
    data = ChoiceSet(collect_pairs(PAIRS), tiny.PROMPTS[40:44], unrelated, ["The doctor"])
    config = ChoiceConfig((1.0,), (0.3,), "mean", ablations=True, samples=1, sampling=Sampling(max_new_tokens=4))
    frame = evaluate_choices(opened.store, "medical", data, config=config)
    plain = {
        "probability", "probability after 'The answer is'", "unrelated probability", "unrelated accuracy",
        "unrelated perplexity",
    }  # fmt: skip
    shifts = {"shift", "shift after 'The answer is'", "unrelated shift", "unrelated perplexity ratio"}
    found = stored_names(opened)
    assert {method: set(frame.filter(method=method)["name"]) for method in found} == found
    of_text = {"perplexity", "distance_positive", "distance_negative", "leaning", "distinct_1", "distinct_2"}
    assert found.pop("original") >= plain | of_text
    assert found.keys() == {
        "sas", "sas/random", "sas/positive part", "sas/negative part", "sas/error dropped", "dense", "dense/random",
    }  # fmt: skip
    for method, names in found.items():
        sparse = {"entries", "share of neurons"} if method.startswith("sas") else set()
        assert {name for name in names if not name.startswith((*OF_TEXT, "distance", "leaning"))} == (
            plain | shifts | sparse
        )
        assert names >= {"leaning - original", "perplexity / original", "perplexity - original"}
