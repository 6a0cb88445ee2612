"""An evaluation: what is generated, compared and stored, and the controls beside it, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from scipy import stats

import atlas
import atlas.evaluate
from atlas.controls import CONTROLS
from atlas.errors import AtlasError, UnknownName
from atlas.evaluate import (
    EvaluationConfig,
    EvaluationSet,
    Examiner,
    MethodSetting,
    detect,
    evaluate,
    matched_neurons,
    measure_again,
    with_controls,
)
from atlas.generate import Sampling, generate
from atlas.intervals import auroc_interval
from atlas.layerwise import activity, layer_figures
from atlas.methods import METHODS, Options
from atlas.metrics import METRICS, Judge
from atlas.steerer import Steerer

SEA = ("Boats at sea.", "A ship sailed.")  # short, so that one fits before a prompt
PROMPTS = ("The doctor", "She", "It was late and")
HELD_OUT = ("The harbour was full of ships.", "A sailor on deck.", "Salt water everywhere.", "The tide turned.")
UNALIGNED = ("The cook tasted the sauce.", "Add two eggs.", "The cake burned.", "He ran home.", "It rains.")
OTHERS = ("Nurses help the patient.", "A pill against pain.")
DATA = EvaluationSet(HELD_OUT, UNALIGNED, PROMPTS, OTHERS)
CONFIG = EvaluationConfig(samples=2, select="score", sampling=Sampling(max_new_tokens=5, seed=7))
SWAP, ADD = MethodSetting("swap"), MethodSetting("add", Options(strength=0.5, neurons=3))
EVALUATED = [
    "original", "sae", "swap", "swap/shuffled", "swap/random", "add", "add/shuffled", "add/random", "prefix",
]  # fmt: skip


@pytest.fixture(scope="module")
def path(built_atlas, tmp_path_factory, loaders):
    """An atlas with two topics scored."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("evaluate") / "x.atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atlas.models.load_encoder", loaders["load_encoder"])
        opened = atlas.open(path)
        opened.score("sea", SEA, min_support=2)
        opened.score("medicine", tiny.MEDICINE, min_support=2)
    return path


@pytest.fixture(scope="module")
def steerer(path):
    return Steerer(atlas.open(path).store)


@pytest.fixture(scope="module")
def examine(path, steerer, encoder):
    """An examiner of topic "sea"; give what should differ."""

    def make(data=DATA, config=CONFIG, *, topic="sea", where=path, **more):
        return Examiner(atlas.open(where), topic, data, config, steerer=steerer, encoder=encoder, **more)

    return make


@pytest.fixture(scope="module")
def examiner(examine):
    return examine()


@pytest.fixture(scope="module")
def done(path, examiner):
    """One evaluation: its frame, and what is stored."""
    frame = evaluate(examiner, [SWAP, ADD, MethodSetting("prefix")])
    opened = atlas.open(path)
    tables = {name: opened.sql(f"from {name}") for name in ("runs", "generations", "metrics")}
    return frame, tables


@pytest.fixture(scope="module")
def judge(transformer, language_model, encoder):
    return Judge(
        transformer, language_model.tokenizer, True, encoder, encoder.embed(SEA), encoder.embed(HELD_OUT), None
    )


def texts_of(tables, method):
    """The stored texts of a method, in order."""
    [run_id] = tables["runs"].filter(pl.col("method") == method)["run_id"]
    return tables["generations"].filter(pl.col("run_id") == run_id).sort("generation_id")


def values_of(tables, method, metric):
    """The stored value of each of a method's texts, in order."""
    texts = texts_of(tables, method).select("generation_id")
    found = tables["metrics"].filter(pl.col("name") == metric).select("generation_id", "value")
    return texts.join(found, on="generation_id", how="left", maintain_order="left")["value"].to_list()


def figure(frame, method, name):
    [row] = frame.filter((pl.col("method") == method) & (pl.col("name") == name)).rows(named=True)
    return row["value"], row["low"], row["high"]


def test_baselines_and_controls_stand_beside_every_scored_method(done):
    frame, tables = done
    assert tables["runs"]["method"].to_list() == ["detection", *EVALUATED]
    assert frame["method"].unique(maintain_order=True).to_list() == ["detection", *EVALUATED]
    assert {name.partition("/")[2] for name in EVALUATED} == {"", *CONTROLS}


def test_a_baseline_that_is_asked_for_takes_part_once():
    names = [setting.name for setting in with_controls([MethodSetting("sae"), SWAP, MethodSetting("original")])]
    assert names == ["original", "sae", "swap", "swap/shuffled", "swap/random"]


def test_a_run_is_stored_with_its_settings(done):
    _, tables = done
    assert tables["runs"]["evaluation_id"].n_unique() == tables["runs"]["topic"].n_unique() == 1
    assert tables["runs"]["topic"][0] == "sea"
    for row in tables["runs"].iter_rows(named=True):
        parameters = json.loads(row["parameters"])
        method, _, control = row["method"].partition("/")
        assert (parameters["method"], parameters["control"] or "") == (method, control)
        assert (row["seed"], parameters["samples"], parameters["scorer"], parameters["select"]) == (
            7, 2, "distance", "score",
        )  # fmt: skip
        assert (parameters["max_new_tokens"], parameters["top_k"], parameters["keep_error"]) == (
            5,
            5,
            CONFIG.keep_error,
        )
        assert parameters["options"]["strength"] == (0.5 if method == "add" else None)


def test_every_prompt_and_sample_has_a_seed_of_its_own_that_all_methods_share(done):
    _, tables = done
    for method in EVALUATED:
        texts = texts_of(tables, method)
        assert texts["prompt"].to_list() == [prompt for prompt in PROMPTS for _ in range(2)]
        assert texts["seed"].to_list() == list(range(7, 13))
    assert tables["generations"].height == len(EVALUATED) * 6


@pytest.mark.parametrize("method", ["original", "sae", "swap", "add"])
def test_the_stored_texts_are_those_that_steering_generates(done, examiner, method):
    texts = generate(
        examiner.model, examiner.tokenizer, [prompt for prompt in PROMPTS for _ in range(2)], examiner.layers,
        method=method, options=ADD.options if method == "add" else Options(), prepend_bos=True, positions="all",
        keep_error=CONFIG.keep_error and method != "sae", sampling=CONFIG.sampling, seeds=range(7, 13),
    )  # fmt: skip
    assert texts_of(done[1], method)["text"].to_list() == [text.text for text in texts]
    assert values_of(done[1], method, "contamination") == pytest.approx([text.contamination for text in texts])


def test_the_sae_baseline_is_the_plain_reconstruction_even_where_methods_keep_the_error(done):
    assert CONFIG.keep_error
    texts = {method: texts_of(done[1], method)["text"].to_list() for method in ("original", "sae")}
    assert texts["original"] != texts["sae"]


def test_a_prefix_is_one_of_the_topics_texts_and_is_not_part_of_the_prompt_that_is_stored(done, examiner):
    order = sorted(SEA, key=examiner.topic_texts.index)
    given = [f"{order[i % 2]} {prompt}" for i, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(2))]
    texts = generate(
        examiner.model, examiner.tokenizer, given, examiner.layers, method="original", options=Options(), keep_error=False,
        positions="all", prepend_bos=True, sampling=CONFIG.sampling, seeds=range(7, 13),
    )  # fmt: skip
    assert texts_of(done[1], "prefix")["text"].to_list() == [text.text for text in texts]


@pytest.mark.parametrize("metric", METRICS)
def test_every_text_is_stored_with_every_metric(done, judge, metric):
    texts = done[1]["generations"].sort("generation_id")
    expected = METRICS[metric].measure(judge, texts["prompt"].to_list(), texts["text"].to_list())
    found = [value for method in EVALUATED for value in values_of(done[1], method, metric)]
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v for v in found if v is not None] == pytest.approx([v for v in expected if v is not None], rel=1e-3)


def per_prompt(tables, method, metric):
    """The mean of a prompt's two texts, NaN where neither has a value."""
    values = np.array(values_of(tables, method, metric), dtype=float).reshape(len(PROMPTS), 2)
    counts = (~np.isnan(values)).sum(axis=1)
    return np.where(counts > 0, np.nansum(values, axis=1) / np.maximum(counts, 1), np.nan)


def student(values):
    values = values[~np.isnan(values)]
    return (values.mean(), *stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values)))


@pytest.mark.parametrize("metric", ["perplexity", "distance_held_out", "distance_topic", "distinct_1", "contamination"])
@pytest.mark.parametrize("method", EVALUATED)
def test_means_and_differences_are_over_prompts_and_paired_by_them(done, method, metric):
    frame, tables = done
    own = per_prompt(tables, method, metric)
    assert figure(frame, method, metric) == pytest.approx(student(own), rel=1e-6)
    against = {"original", "sae"} - {method} | ({"shuffled"} if method in ("swap", "add") else set())
    for other in against:
        theirs = per_prompt(tables, f"{method}/shuffled" if other == "shuffled" else other, metric)
        assert figure(frame, method, f"{metric} - {other}") == pytest.approx(student(own - theirs), rel=1e-6, abs=1e-9)
    compared = {
        name.rpartition(" - ")[2]
        for name in frame.filter((pl.col("method") == method) & pl.col("name").str.starts_with(f"{metric} - "))["name"]
    }
    assert compared == against


def test_a_metric_that_is_not_at_hand_gives_no_figure(done):
    frame, tables = done
    assert not frame["name"].str.contains("acceptability").any()
    assert "acceptability" not in tables["metrics"]["name"]


def test_the_figures_of_a_run_are_stored_as_they_are_returned(done):
    frame, tables = done
    stored = (
        tables["metrics"]
        .filter(pl.col("generation_id").is_null())
        .join(tables["runs"], on="run_id")
        .select("method", "name", "value", "low", "high")
    )
    assert stored.sort("method", "name").equals(frame.sort("method", "name"))


def test_each_control_changes_the_texts(done):
    texts = {method: tuple(texts_of(done[1], method)["text"]) for method in EVALUATED}
    assert len({texts[name] for name in ("swap", "swap/shuffled", "swap/random")}) == 3
    assert len({texts[name] for name in ("add", "add/shuffled", "add/random")}) == 3


@pytest.mark.parametrize("select", ["score", "z"])
def test_controls_are_measured_by_the_topics_scores_and_not_by_their_own(examine, path, select):
    """Clamping no neuron leaves the code as it is, so that all that could differ is the ruler."""
    examiner = examine(config=replace(CONFIG, select=select))
    nothing = Options(strength=1.0, neurons=0)
    runs = [examiner.run(setting) for setting in with_controls([MethodSetting("clamp", nothing)])]
    original, _, *clamped = (run.values["contamination"] for run in runs)
    for found in clamped:
        assert found == pytest.approx(original, rel=1e-5)
    layers = [examiner.layer_level(run.setting)["contamination on aligned"] for run in runs[1:]]
    assert all(found == pytest.approx(layers[0]) for found in layers)
    scores = atlas.open(path).sql("select score from scores where scoring_id = 0 order by neuron")["score"]
    np.testing.assert_allclose(1 - examiner.layers[0].impurity, scores.fill_null(0), atol=1e-6)


def test_layer_figures_are_given_for_methods_with_a_code_on_aligned_and_unaligned_texts(done, examiner):
    frame, _ = done
    names = {f"{column} on {texts}" for column in ("changed", "reconstruction", "contamination", "changed_deviation")
             for texts in ("aligned", "unaligned")}  # fmt: skip
    for method in EVALUATED:
        found = frame.filter((pl.col("method") == method) & pl.col("name").str.contains(" on "))["name"]
        assert set(found) == (names if method.split("/")[0] in ("sae", "swap") else set())
    for texts, name in ((HELD_OUT, "aligned"), (UNALIGNED, "unaligned")):
        figures = layer_figures(
            examiner.model, examiner.tokenizer, examiner.layers[0], texts, "swap", Options(), prepend_bos=True
        )
        assert figure(frame, "swap", f"changed on {name}") == pytest.approx(student(figures.changed))
        assert figure(frame, "swap", f"contamination on {name}") == pytest.approx(student(figures.contamination))


def test_detection_is_the_auroc_of_the_best_neurons_summed_activity(done, examiner):
    frame, _ = done
    layer = examiner.layers[0]
    best = layer.target.best[: atlas.evaluate.BEST].numpy()
    sums = [
        activity(examiner.model, examiner.tokenizer, layer, texts, prepend_bos=True)[:, best].sum(1)
        for texts in (HELD_OUT, UNALIGNED, OTHERS)
    ]
    assert figure(frame, "detection", "auroc_everyday") == pytest.approx(auroc_interval(sums[0], sums[1]))
    assert figure(frame, "detection", "auroc_topics") == pytest.approx(auroc_interval(sums[0], sums[2]))


@pytest.fixture
def three_best(monkeypatch):
    monkeypatch.setattr(atlas.evaluate, "BEST", 3)


def test_detection_by_random_neurons_is_between_0_and_1_and_the_same_each_time(examiner, three_best):
    first, again = (examiner.detection().figures for _ in range(2))
    assert first == again
    for name in ("everyday", "topics"):
        value, low, high = first[f"auroc_{name} of random neurons"]
        assert 0 <= low <= value <= high <= 1 or low < 0 or high > 1
        assert value != first[f"auroc_{name}"].value


def test_detection_without_other_topics_leaves_them_out(examine, three_best):
    figures = examine(replace(DATA, others=())).detection().figures
    assert any("everyday" in name for name in figures) and not any("topics" in name for name in figures)


def test_neurons_that_find_the_topic_are_told_from_those_that_do_not():
    own, other = np.zeros((10, 4)), np.zeros((12, 4))
    own[:, 0], other[:, 1] = 1, 1
    for best, value in (([0], 1), ([1], 0), ([2, 3], 0.5), ([0, 1], 0.5)):
        assert detect(own, other, None, np.array(best))["auroc_everyday"].value == value
    assert set(detect(own, other, other, np.array([0]))) == {"auroc_everyday", "auroc_topics"}


def test_matched_neurons_have_a_score_are_not_the_best_and_are_near_in_support():
    generator = np.random.default_rng(0)
    support = generator.integers(1, 5000, 1000)
    ranked = generator.permutation(1000)[:800]
    best = ranked[:20]
    found = np.array([matched_neurons(support, ranked, best, generator) for _ in range(20)])
    assert found.shape == (20, 20)
    assert not np.isin(found, best).any() and np.isin(found, ranked).all()
    others = np.setdiff1d(ranked, best)
    for column, neuron in zip(found.T, best, strict=True):
        reach = np.sort(np.abs(support[others] - support[neuron]))[49]
        assert (np.abs(support[column] - support[neuron]) <= reach).all()
        assert len(set(column)) > 8


def test_two_saes_are_steered_at_once_and_each_finds_texts_by_itself(examine, examiner):
    both = examine(sae_ids=["residual", "heads"])
    figures = both.detection().figures
    assert {"auroc_everyday (residual)", "auroc_everyday (heads)"} <= set(figures)
    assert [g.text for g in both.run(ADD).generations] != [g.text for g in examiner.run(ADD).generations]
    assert both.scoring_ids == [0, 1]


def test_a_model_that_is_handed_in_generates_under_its_methods_name(examine, transformer, language_model):
    other = type(transformer)(transformer.config).eval()
    tiny.randomise(other, seed=9, scale=0.3)
    examiner = examine(models={"finetuned": other})
    run = examiner.run(MethodSetting("finetuned"))
    texts = generate(
        other, language_model.tokenizer, list(PROMPTS), examiner.layers, method="original", options=Options(), keep_error=False,
        positions="all", prepend_bos=True, sampling=CONFIG.sampling, seeds=[7, 9, 11],
    )  # fmt: skip
    assert [g.text for g in run.generations][::2] == [text.text for text in texts]


def test_the_callers_random_state_is_left_alone(examiner):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    examiner.run(MethodSetting("swap", control="random"))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_second_evaluation_stands_beside_the_first(done, path, examine, tmp_path):
    copy = shutil.copy(path, tmp_path / "x.atlas")
    evaluate(examine(replace(DATA, prompts=("Rain",)), replace(CONFIG, samples=1), where=copy), [])
    opened = atlas.open(copy)
    runs = opened.sql("from runs order by run_id")
    assert runs["run_id"].to_list() == list(range(runs.height))
    assert Counter(runs["evaluation_id"]) == {0: len(EVALUATED) + 1, 1: 3}
    assert opened.sql("from generations where run_id <= 9 order by generation_id").equals(
        done[1]["generations"].sort("generation_id")
    )
    one = opened.sql("from metrics where generation_id is null and run_id > 9 and name = 'perplexity'")
    assert one["value"].null_count() == 0 and one["low"].null_count() == one.height == 2, "one prompt has no interval"


def test_a_new_metric_is_measured_on_stored_texts_without_generating(
    done, path, tmp_path, encoder, steerer, monkeypatch
):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluate, "load_encoder", lambda name: encoder)
    assert measure_again(copy, "sea", HELD_OUT, steerer=steerer) == 0
    length = replace(
        METRICS["perplexity"], measure=lambda judge, prompts, texts: [float(len(t)) or None for t in texts]
    )
    monkeypatch.setitem(METRICS, "length", length)
    monkeypatch.setattr(atlas.evaluate, "generate", None)
    texts = done[1]["generations"].filter(pl.col("text") != "")
    assert measure_again(copy, "sea", HELD_OUT, steerer=steerer) == texts.height
    added = copy.sql("select g.text, m.value, m.run_id, g.run_id as of_text from metrics as m join generations as g "
                     "using (generation_id) where m.name = 'length'")  # fmt: skip
    assert added.height == texts.height
    assert all(len(text) == value and run == own for text, value, run, own in added.rows())
    assert copy.sql("select count(*) from generations").item() == done[1]["generations"].height
    assert measure_again(copy, "sea", HELD_OUT, steerer=steerer) == 0


def test_texts_are_measured_again_with_the_values_they_had(done, path, tmp_path, encoder, steerer, monkeypatch):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluate, "load_encoder", lambda name: encoder)
    gone = "name in ('perplexity', 'distance_held_out') and generation_id is not null"
    before = copy.sql(f"from metrics where {gone} order by generation_id, name")
    with copy.store.write() as session:
        session._connection.execute(f"delete from metrics where {gone}")
    assert measure_again(copy, "sea", HELD_OUT, steerer=steerer) == before.height
    after = copy.sql(f"from metrics where {gone} order by generation_id, name")
    assert after.select("run_id", "generation_id", "name").equals(before.select("run_id", "generation_id", "name"))
    np.testing.assert_allclose(after["value"], before["value"], rtol=1e-3)


def test_a_topic_without_evaluated_texts_has_none_to_measure_again(path, steerer):
    with pytest.raises(AtlasError, match="topic 'medicine' has no evaluated text: run `atlas evaluate` without"):
        measure_again(atlas.open(path), "medicine", HELD_OUT, steerer=steerer)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"samples": 0}, AtlasError, "samples 0 is below 1: give the number of texts per prompt"),
        ({"positions": "last"}, UnknownName, "unknown positions 'last': known are"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        EvaluationConfig(**settings)


@pytest.mark.parametrize(
    ("texts", "message"),
    [({"held_out": ()}, "there is no held-out text to evaluate on"), ({"prompts": ()}, "there is no prompt to")],
)
def test_an_evaluation_needs_something_to_run_on(texts, message):
    with pytest.raises(AtlasError, match=message):
        replace(DATA, **texts)


def test_a_held_out_text_that_the_topic_was_scored_by_is_refused(examine):
    with pytest.raises(AtlasError, match="1 held-out texts are among the topic's own, such as 'Boats at sea.'"):
        examine(replace(DATA, held_out=[*HELD_OUT, SEA[0]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topic": "see"}, "unknown topic 'see': known are sea, medicine"),
        ({"config": replace(CONFIG, select="best")}, "unknown selection rule 'best'"),
        ({"config": replace(CONFIG, scorer="distanse")}, "unknown scorer 'distanse': known are distance"),
        ({"config": replace(CONFIG, select="writes")}, "needs output: run `atlas score` --scorer output"),
        ({"sae_ids": ["residul"]}, "unknown SAE 'residul': known are residual"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_generated(examine, settings, message):
    with pytest.raises(AtlasError, match=message):
        examine(**settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (MethodSetting("swop"), "unknown method 'swop': known are swap"),
        (MethodSetting("swap", Options(strength=2.0)), "method swap has no strength"),
        (MethodSetting("finetuned"), "method finetuned has no model to generate with"),
    ],
)
def test_a_method_that_cannot_be_evaluated_is_refused_and_nothing_is_stored(examiner, path, setting, message):
    before = atlas.open(path).sql("select count(*) from runs").item()
    with pytest.raises(AtlasError, match=message):
        evaluate(examiner, [setting])
    assert atlas.open(path).sql("select count(*) from runs").item() == before


def test_every_method_that_steers_by_scores_can_be_evaluated(examine):
    short = examine(replace(DATA, prompts=PROMPTS[:1]), replace(CONFIG, samples=1))
    for name in (name for name, method in METHODS.items() if method.needs_scores):
        run = short.run(with_controls([MethodSetting(name)])[2])
        assert run.generations[0].method == name
        assert set(METRICS) <= set(run.values)
