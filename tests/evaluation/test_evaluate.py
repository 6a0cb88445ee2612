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
from command import run
from contents import change
from scipy import stats

import atlas
import atlas.evaluation.detection
import atlas.evaluation.evaluator
import atlas.evaluation.remeasure
from atlas.errors import AtlasError, PromptError, UnknownName
from atlas.evaluation.controls import CONTROLS
from atlas.evaluation.evaluate import edits_code, evaluate_methods, with_controls
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, prepare_evaluator
from atlas.evaluation.figures import ALIGNED, AT_RANDOM, Figure
from atlas.evaluation.intervals import auroc_interval
from atlas.evaluation.layer_level import activity, layer_figures
from atlas.evaluation.metrics import METRICS, MetricInputs
from atlas.evaluation.nearest_topic import make_classifier
from atlas.evaluation.remeasure import remeasure_topic
from atlas.evaluation.runs import MethodSetting
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import special_ids
from atlas.steering.generation import Sampling, generate
from atlas.steering.intervention import Steering
from atlas.steering.methods import METHODS
from atlas.steering.settings import Options
from atlas.texts.pairs import pair_texts

SEA = ("Boats at sea.", "A ship sailed.")  # short, so that one fits before a prompt
PROMPTS = ("The doctor", "She", "It was late and")
HELD_OUT = ("The harbour was full of ships.", "A sailor on deck.", "Salt water everywhere.", "The tide turned.")
UNALIGNED = ("The cook tasted the sauce.", "Add two eggs.", "The cake burned.", "He ran home.", "It rains.")
OTHERS = ("Nurses help the patient.", "A pill against pain.")
SAILING = pair_texts(tiny.PROMPTS[15:20], tiny.PROMPTS[30:36])
DATA = EvaluationSet(HELD_OUT, UNALIGNED, PROMPTS, {"medicine": OTHERS})
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
        patch.setattr("atlas.models.encoders.load_encoder", loaders["load_encoder"])
        opened = atlas.open(path)
        opened.score("sea", SEA, min_support=2)
        opened.score("medicine", tiny.MEDICINE, min_support=2)
    opened.contrast("sailing", SAILING, tau=0.3, position="mean")
    return path


@pytest.fixture(scope="module")
def recorded(path):
    return RecordedModels(atlas.open(path).store)


@pytest.fixture(scope="module")
def examine(path, recorded, encoder):
    """An evaluator of topic "sea"; give what should differ."""

    def make(data=DATA, config=CONFIG, *, topic="sea", where=path, **more):
        return prepare_evaluator(
            atlas.open(where).store, topic, data, config, recorded=recorded, encoder=encoder, **more
        )

    return make


@pytest.fixture(scope="module")
def evaluator(examine):
    return examine()


@pytest.fixture(scope="module")
def done(path, evaluator):
    """One evaluation: its frame, and what is stored."""
    frame = evaluate_methods(evaluator, [SWAP, ADD, MethodSetting("prefix")])
    opened = atlas.open(path)
    tables = {name: opened.sql(f"from {name}") for name in ("runs", "generations", "metrics")}
    return frame, tables


@pytest.fixture(scope="module")
def inputs(transformer, language_model, encoder):
    model = LoadedModel(transformer, language_model.tokenizer, True)
    classifier = make_classifier(encoder, "sea", HELD_OUT, {"medicine": OTHERS})
    return MetricInputs(model, encoder, encoder.embed(SEA), encoder.embed(HELD_OUT), classifier=classifier)


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


def continue_prompts(evaluator, prompts, steering):
    """What a steered model goes on with, under the evaluation's seeds."""
    model = evaluator.loaded
    return generate(model, prompts, steering, sampling=CONFIG.sampling, seeds=range(7, 13))


@pytest.mark.parametrize("method", ["original", "sae", "swap", "add"])
def test_the_stored_texts_are_those_that_steering_generates(done, evaluator, method):
    steering = Steering(
        evaluator.model, evaluator.saes, method=method, options=ADD.options if method == "add" else Options(),
        keep_error=CONFIG.keep_error and method != "sae", special_ids=special_ids(evaluator.tokenizer),
    )  # fmt: skip
    texts = continue_prompts(evaluator, [prompt for prompt in PROMPTS for _ in range(2)], steering)
    assert texts_of(done[1], method)["text"].to_list() == [text.text for text in texts]
    assert values_of(done[1], method, "contamination") == pytest.approx([text.contamination for text in texts])


def test_the_sae_baseline_is_the_plain_reconstruction_even_where_methods_keep_the_error(done):
    assert CONFIG.keep_error
    texts = {method: texts_of(done[1], method)["text"].to_list() for method in ("original", "sae")}
    assert texts["original"] != texts["sae"]


def test_a_prefix_is_one_of_the_topics_texts_and_is_not_part_of_the_prompt_that_is_stored(done, evaluator):
    order = sorted(SEA, key=evaluator.topic_texts.index)
    given = [f"{order[i % 2]} {prompt}" for i, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(2))]
    texts = continue_prompts(evaluator, given, Steering(evaluator.model, evaluator.saes, method="original"))
    assert texts_of(done[1], "prefix")["text"].to_list() == [text.text for text in texts]


@pytest.mark.parametrize("metric", METRICS)
def test_every_text_is_stored_with_every_metric(done, inputs, metric):
    texts = done[1]["generations"].sort("generation_id")
    expected = METRICS[metric].measure(inputs, texts["prompt"].to_list(), texts["text"].to_list())
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
    if not values.std():
        return (values[0],) * 3
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
    """Clamping no neuron leaves the code as it is, so that all that could differ is what contamination is measured by."""
    evaluator = examine(config=replace(CONFIG, select=select))
    nothing = Options(strength=1.0, neurons=0)
    runs = [evaluator.run(setting) for setting in with_controls([MethodSetting("clamp", nothing)])]
    original, _, *clamped = (run.values["contamination"] for run in runs)
    for found in clamped:
        assert found == pytest.approx(original, rel=1e-5)
    figures = [evaluator.layer_level(run.setting)[Figure("contamination", texts=ALIGNED)] for run in runs[1:]]
    assert all(found == pytest.approx(figures[0]) for found in figures)
    scores = atlas.open(path).sql("select score from scores where scoring_id = 0 order by neuron")["score"]
    np.testing.assert_allclose(1 - evaluator.saes[0].impurity, scores.fill_null(0), atol=1e-6)


def test_layer_figures_are_given_for_methods_with_a_code_on_aligned_and_unaligned_texts(done, evaluator):
    frame, _ = done
    names = {f"{column} on {texts}" for column in ("changed", "reconstruction", "contamination", "changed_deviation")
             for texts in ("aligned", "unaligned")}  # fmt: skip
    for method in EVALUATED:
        found = frame.filter((pl.col("method") == method) & pl.col("name").str.contains(" on "))["name"]
        assert set(found) == (names if method.split("/")[0] in ("sae", "swap") else set())
    for texts, name in ((HELD_OUT, "aligned"), (UNALIGNED, "unaligned")):
        figures = layer_figures(evaluator.loaded, evaluator.saes[0], texts, "swap", Options())
        assert figure(frame, "swap", f"changed on {name}") == pytest.approx(student(figures.changed))
        assert figure(frame, "swap", f"contamination on {name}") == pytest.approx(student(figures.contamination))


def test_detection_is_the_auroc_of_the_best_neurons_summed_activity(done, evaluator):
    frame, _ = done
    sae = evaluator.saes[0]
    best = sae.target.best[: atlas.evaluation.detection.BEST].numpy()
    sums = [activity(evaluator.loaded, sae, texts)[:, best].sum(1) for texts in (HELD_OUT, UNALIGNED, OTHERS)]
    assert figure(frame, "detection", "auroc_everyday") == pytest.approx(auroc_interval(sums[0], sums[1]))
    assert figure(frame, "detection", "auroc_topics") == pytest.approx(auroc_interval(sums[0], sums[2]))


@pytest.fixture
def three_best(monkeypatch):
    monkeypatch.setattr(atlas.evaluation.evaluator, "BEST", 3)


def test_detection_by_random_neurons_is_between_0_and_1_and_the_same_each_time(evaluator, three_best):
    first, again = (evaluator.detection().figures for _ in range(2))
    assert first == again
    for metric in ("auroc_everyday", "auroc_topics"):
        value, low, high = first[Figure(metric, ranking=AT_RANDOM)]
        assert 0 <= low <= value <= high <= 1
        assert value != first[Figure(metric)].value


def test_detection_without_other_topics_leaves_them_out(examine, three_best):
    figures = examine(replace(DATA, others=())).detection().figures
    assert {figure.metric for figure in figures} == {"auroc_everyday"}


def test_two_saes_are_steered_at_once_and_each_finds_texts_by_itself(examine, evaluator):
    both = examine(sae_ids=["residual", "heads"])
    figures = both.detection().figures
    assert {Figure("auroc_everyday", sae_id=sae_id) for sae_id in ("residual", "heads")} <= set(figures)
    assert [g.text for g in both.run(ADD).generations] != [g.text for g in evaluator.run(ADD).generations]
    assert both.steering.scoring_ids == [0, 1]


def test_a_model_that_is_handed_in_generates_under_its_methods_name(examine, transformer, language_model):
    other = type(transformer)(transformer.config).eval()
    tiny.randomise(other, seed=9, scale=0.3)
    evaluator = examine(models={"finetuned": other})
    run = evaluator.run(MethodSetting("finetuned"))
    texts = generate(
        LoadedModel(other, language_model.tokenizer, True), list(PROMPTS), Steering(other, evaluator.saes, method="original"),
        sampling=CONFIG.sampling, seeds=[7, 9, 11],
    )  # fmt: skip
    assert [g.text for g in run.generations][::2] == [text.text for text in texts]


@pytest.fixture(scope="module")
def by_vector(path, recorded, encoder, tmp_path_factory):
    """An evaluation of the three methods in an atlas of its own: evaluator, frame and tables."""
    opened = atlas.open(shutil.copy(path, tmp_path_factory.mktemp("vectors") / "x.atlas"))
    evaluator = prepare_evaluator(
        opened.store, "sea", DATA, CONFIG, recorded=recorded, encoder=encoder, vectors=["sailing"]
    )
    settings = [
        MethodSetting(name, Options(2.0, sigma="none" if name == "sas" else "own")) for name in TestVectors.METHODS
    ]
    frame = evaluate_methods(evaluator, settings)
    tables = {name: opened.sql(f"from {name}") for name in ("runs", "generations", "metrics", "vectors")}
    last = pl.col("evaluation_id") == tables["runs"]["evaluation_id"].max()
    return evaluator, frame, {**tables, "runs": tables["runs"].filter(last)}


class TestVectors:
    """Contrastive vectors are evaluated on a topic's texts and prompts, beside their controls."""

    METHODS = ("sas", "dense", "filtered")

    def test_each_has_its_controls_and_is_compared_with_the_baselines_and_with_its_shuffled_self(self, by_vector):
        _, frame, _ = by_vector
        names = [f"{name}{control}" for name in self.METHODS for control in ("", "/shuffled", "/random")]
        assert frame["method"].unique(maintain_order=True).to_list() == ["detection", "original", "sae", *names]
        for name in self.METHODS:
            for other in ("original", "sae", "shuffled"):
                assert figure(frame, name, f"distance_held_out - {other}")[0] is not None

    @pytest.mark.parametrize("method", METHODS)
    def test_the_texts_are_those_that_the_vector_steers_and_each_names_it(self, by_vector, method):
        evaluator, _, tables = by_vector
        options = Options(2.0, sigma="none" if method == "sas" else "own")
        steering = Steering(
            evaluator.model,
            evaluator.saes,
            method=method,
            options=options,
            special_ids=special_ids(evaluator.tokenizer),
        )
        texts = continue_prompts(evaluator, [prompt for prompt in PROMPTS for _ in range(2)], steering)
        stored = texts_of(tables, method)
        assert stored["text"].to_list() == [text.text for text in texts]
        assert stored["text"].to_list() != texts_of(tables, "original")["text"].to_list()
        kind = "sas" if method == "sas" else "dense"
        own = tables["vectors"].filter((pl.col("kind") == kind) & (pl.col("sae_key") == 0))["vector_id"].to_list()
        assert all(
            ids.to_list() == own
            for name in (method, f"{method}/random")
            for ids in texts_of(tables, name)["vector_ids"]
        )
        assert all(ids.to_list() == [] for ids in texts_of(tables, "sae")["vector_ids"])

    @pytest.mark.parametrize("method", METHODS)
    def test_each_control_changes_the_texts(self, by_vector, method):
        texts = {tuple(texts_of(by_vector[2], f"{method}{end}")["text"]) for end in ("", "/shuffled", "/random")}
        assert len(texts) == 3

    def test_layer_figures_are_given_for_the_one_that_edits_the_code(self, by_vector):
        frame = by_vector[1].filter(pl.col("name").str.contains(" on "))
        assert set(frame["method"]) == {"sae", "sas", "sas/shuffled", "sas/random"}
        assert figure(frame, "sas", "changed on aligned")[0] > 0

    def test_at_strength_0_the_text_is_unsteered_and_no_layer_figure_is_given(self, by_vector):
        evaluator, _, tables = by_vector
        setting = with_controls([MethodSetting("sas", Options(0.0))])[2]
        assert [text.text for text in evaluator.run(setting).generations] == texts_of(tables, "original")[
            "text"
        ].to_list()
        assert not edits_code(setting) and edits_code(replace(setting, options=Options(1.0)))

    def test_a_vector_that_is_missing_or_that_no_method_uses_is_said(self, evaluator, by_vector, examine):
        with pytest.raises(AtlasError, match="method sas steers by a contrastive vector: name one with --vector"):
            evaluate_methods(evaluator, [MethodSetting("sas")])
        with pytest.raises(AtlasError, match="none of the methods original, sae, swap, swap, swap uses a vector"):
            evaluate_methods(by_vector[0], [SWAP])
        with pytest.raises(UnknownName, match="unknown vector 'sail': known are sailing"):
            examine(vectors=["sail"])


def test_the_callers_random_state_is_left_alone(evaluator):
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    evaluator.run(MethodSetting("swap", control="random"))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_second_evaluation_stands_beside_the_first(done, path, examine, tmp_path):
    copy = shutil.copy(path, tmp_path / "x.atlas")
    evaluate_methods(examine(replace(DATA, prompts=("Rain",)), replace(CONFIG, samples=1), where=copy), [])
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
    done, path, tmp_path, encoder, recorded, monkeypatch
):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluation.remeasure, "load_encoder", lambda name: encoder)
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == 0
    length = replace(
        METRICS["perplexity"], measure=lambda inputs, prompts, texts: [float(len(t)) or None for t in texts]
    )
    monkeypatch.setitem(METRICS, "length", length)
    monkeypatch.setattr(atlas.evaluation.evaluator, "generate_in_turn", None)
    texts = done[1]["generations"].filter(pl.col("text") != "")
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == texts.height
    added = copy.sql("select g.text, m.value, m.run_id, g.run_id as of_text from metrics as m join generations as g "
                     "using (generation_id) where m.name = 'length'")  # fmt: skip
    assert added.height == texts.height
    assert all(len(text) == value and run == own for text, value, run, own in added.rows())
    assert copy.sql("select count(*) from generations").item() == done[1]["generations"].height
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == 0
    tables = {name: copy.sql(f"from {name}") for name in ("runs", "generations", "metrics")}
    of_runs = tables["metrics"].filter(pl.col("generation_id").is_null())
    renewed = of_runs.join(tables["runs"], on="run_id").select("method", "name", "value", "low", "high")
    for method in EVALUATED:
        own, plain = (per_prompt(tables, name, "length") for name in (method, "original"))
        assert figure(renewed, method, "length") == pytest.approx(student(own), rel=1e-6)
        if method != "original":
            assert figure(renewed, method, "length - original") == pytest.approx(
                student(own - plain), rel=1e-6, abs=1e-9
            )
    assert renewed.filter(pl.col("name") == "length - shuffled")["method"].to_list() == ["swap", "add"]
    rest = renewed.filter(~pl.col("name").str.starts_with("length")).sort("method", "name")
    assert rest.equals(done[0].sort("method", "name")), "the figures that were there are as they were"


def test_texts_are_measured_again_with_the_values_they_had(done, path, tmp_path, encoder, recorded, monkeypatch):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluation.remeasure, "load_encoder", lambda name: encoder)
    gone = "name in ('perplexity', 'distance_held_out') and generation_id is not null"
    before = copy.sql(f"from metrics where {gone} order by generation_id, name")
    with copy.store.write() as session:
        change(session, f"delete from metrics where {gone}")
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == before.height
    after = copy.sql(f"from metrics where {gone} order by generation_id, name")
    assert after.select("run_id", "generation_id", "name").equals(before.select("run_id", "generation_id", "name"))
    np.testing.assert_allclose(after["value"], before["value"], rtol=1e-3)


@pytest.mark.parametrize("told_by", ["parameters", "scorings", "nothing"])
def test_texts_are_judged_with_the_bos_policy_of_the_sae_that_steered_them(
    examine, path, tmp_path, encoder, recorded, monkeypatch, told_by
):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluation.remeasure, "load_encoder", lambda name: encoder)
    evaluator = examine(where=copy.store.path, topic="medicine", sae_ids=["heads"])
    assert evaluator.loaded.prepend_bos is False and copy.sql("select prepend_bos from saes where sae_key = 0").item()
    evaluate_methods(evaluator, [])
    gone = "name = 'perplexity' and generation_id is not null and run_id in (select run_id from runs where topic = 'medicine')"
    before = copy.sql(f"from metrics where {gone} order by generation_id")
    with copy.store.write() as session:
        change(session, f"delete from metrics where {gone}")
        if told_by != "parameters":
            change(session, "update runs set parameters = json_merge_patch(parameters, '{\"sae_keys\": null}')")
        if told_by == "nothing":
            change(session, "delete from scorings where sae_key = 1")
    if told_by == "nothing":
        with pytest.raises(AtlasError, match="does not say which SAE steered it, and the atlas's SAEs differ"):
            remeasure_topic(copy.store, "medicine", HELD_OUT, recorded=recorded)
        return
    assert remeasure_topic(copy.store, "medicine", HELD_OUT, recorded=recorded) == before.height > 0
    after = copy.sql(f"from metrics where {gone} order by generation_id")
    np.testing.assert_allclose(after["value"], before["value"], rtol=1e-3)


def without_figures(opened, *names):
    """Drop what an older version would not have stored: figures, and what they were measured by."""
    listed = ", ".join(f"'{name}'" for name in names)
    with opened.store.write() as session:
        change(session, f"delete from metrics where split_part(name, ' ', 1) in ({listed})")
        change(session, "update runs set parameters = json_merge_patch(parameters, '{\"classifier\": null}')")


def test_older_texts_are_given_their_topics_with_how_well_those_are_told(
    done, path, tmp_path, encoder, recorded, monkeypatch
):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluation.remeasure, "load_encoder", lambda name: encoder)
    before = [copy.sql(f"from {name} order by all") for name in ("metrics", "runs")]
    without_figures(copy, "on_topic", "classifier_accuracy")
    others = {"medicine": OTHERS}
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == 0, "without other topics there is none"
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded, others=others) > 0
    assert copy.sql("from metrics order by all").equals(before[0])
    found, old = (
        [json.loads(text) for text in frame["parameters"]] for frame in (copy.sql("from runs order by all"), before[1])
    )
    with_texts = [new["method"] != "detection" for new in found]
    assert [new for new, kept in zip(found, with_texts, strict=True) if kept] == [
        one for one, kept in zip(old, with_texts, strict=True) if kept
    ]
    assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded, others=others) == 0


def test_texts_are_judged_anew_by_another_model_and_the_runs_say_by_which(
    done, path, tmp_path, encoder, recorded, monkeypatch, llama_folder, gpt2_folder
):
    copy = atlas.open(shutil.copy(path, tmp_path / "x.atlas"))
    monkeypatch.setattr(atlas.evaluation.remeasure, "load_encoder", lambda name: encoder)
    found = {}
    for folder in (llama_folder, gpt2_folder, llama_folder):
        added = remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded, judge=str(folder))
        figures = copy.sql("from metrics where name like 'slor%' or name like 'penlp%' order by all")
        assert added == figures.filter(pl.col("generation_id").is_not_null()).height > 0
        found.setdefault(str(folder), []).append(figures)
        runs = copy.sql("select r.parameters from runs r where run_id in (select run_id from generations)")[
            "parameters"
        ]
        judges = [json.loads(text)["judge"] for text in runs]
        assert judges == [{"model": str(folder), "is_author": folder == gpt2_folder}] * len(judges)
        assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded, judge=str(folder)) == 0
        assert remeasure_topic(copy.store, "sea", HELD_OUT, recorded=recorded) == 0, "unasked, they stay"
    [first, again], [other] = found.values()
    assert first.equals(again) and not first.equals(other)


def test_a_topic_without_evaluated_texts_has_none_to_measure_again(path, recorded):
    with pytest.raises(AtlasError, match="topic 'medicine' has no evaluated text: run `atlas evaluate` without"):
        remeasure_topic(atlas.open(path).store, "medicine", HELD_OUT, recorded=recorded)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"samples": 0}, AtlasError, "samples 0 is below 1: give the number of texts per prompt"),
        ({"positions": "last"}, UnknownName, "unknown positions 'last': known are"),
        ({"select": "best"}, UnknownName, "unknown selection rule 'best'"),
        ({"scorer": "distanse"}, UnknownName, "unknown scorer 'distanse': known are distance"),
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
    ("settings", "changes", "message"),
    [
        ({"topic": "see"}, {}, "unknown topic 'see': known are sea, medicine"),
        ({}, {"select": "writes"}, "needs output: run `atlas score` --scorer output"),
        ({"sae_ids": ["residul"]}, {}, "unknown SAE 'residul': known are residual"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_generated(examine, settings, changes, message):
    with pytest.raises(AtlasError, match=message):
        examine(config=replace(CONFIG, **changes), **settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (MethodSetting("swop"), "unknown method 'swop': known are swap"),
        (MethodSetting("swap", Options(strength=2.0)), "method swap has no strength"),
        (MethodSetting("finetuned"), "method finetuned has no model to generate with"),
    ],
)
def test_a_method_that_cannot_be_evaluated_is_refused_and_nothing_is_stored(evaluator, path, setting, message):
    before = atlas.open(path).sql("select count(*) from runs").item()
    with pytest.raises(AtlasError, match=message):
        evaluate_methods(evaluator, [setting])
    assert atlas.open(path).sql("select count(*) from runs").item() == before


def test_every_method_that_steers_by_scores_can_be_evaluated(examine):
    short = examine(replace(DATA, prompts=PROMPTS[:1]), replace(CONFIG, samples=1))
    for name in (name for name, method in METHODS.items() if method.needs_scores):
        run = short.run(with_controls([MethodSetting(name)])[2])
        assert run.generations[0].method == name
        assert set(METRICS) <= set(run.values)


@pytest.fixture(scope="module")
def files(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, texts in (("held", HELD_OUT), ("everyday", UNALIGNED), ("prompts", (*PROMPTS, "Rain"))):
        (folder / f"{name}.txt").write_text("\n".join(texts))
    (folder / "others").mkdir()
    (folder / "others" / "medicine.txt").write_text("\n".join(OTHERS))
    return shutil.copy(path, folder / "x.atlas"), folder


class TestCommand:
    """What `atlas evaluate` reads, prints and stores."""

    def arguments(self, files):
        atlas_path, folder = files
        named = {"held-out": "held.txt", "unaligned": "everyday.txt", "others": "others", "prompts": "prompts.txt"}
        options = [part for name, file in named.items() for part in (f"--{name}", folder / file)]
        return ["evaluate", atlas_path, "sea", *options, "--select", "score", "--samples", 1, "--max-new-tokens", 4]

    def test_a_vector_stands_beside_add_each_at_the_strength_picked_on_other_prompts(self, files):
        code, stdout, stderr = run(*self.arguments(files), "--vector", "sailing", "--sigma", "none", "--calibrate")
        assert code == 0, stderr
        for name in ("add", "sas", "dense"):
            assert f"{name} by strength (0 is unsteered):" in stdout
        table = stdout[stdout.index("Generated text") :].splitlines()[1:]
        assert [line.split()[0] for line in table[1:12]] == [
            "original", "sae", *(f"{name}{end}" for name in ("add", "sas", "dense") for end in ("", "/shuffled", "/random")),
        ]  # fmt: skip
        assert "auroc_topics of random neurons: " in stdout
        opened = atlas.open(files[0])
        runs = opened.sql("from runs order by run_id")
        assert {tuple(json.loads(text)["vectors"]) for text in runs["parameters"]} >= {("sailing",)}
        prompts = opened.sql("select evaluation_id, list(distinct prompt) as prompts from runs join generations "
                             "using (run_id) where runs.parameters like '%sailing%' group by evaluation_id order by 1")  # fmt: skip
        found = [set(row) for row in prompts["prompts"].to_list()]
        assert found == [{PROMPTS[0], PROMPTS[2]}] * 3 + [{PROMPTS[1], "Rain"}]

    def test_json_is_a_row_per_method_and_figure_and_texts_are_measured_again_without_a_file(self, files):
        code, stdout, stderr = run(*self.arguments(files), "--method", "clamp", "--format", "json")
        assert code == 0, stderr
        rows = json.loads(stdout)
        assert set(rows[0]) == {"method", "name", "value", "low", "high"}
        assert {row["method"] for row in rows} >= {"original", "sae", "clamp", "clamp/shuffled"}
        code, stdout, stderr = run("evaluate", files[0], "sea", "--measure-again")
        assert code == 0 and stdout.endswith(": 0 figures added\n"), stderr

    def test_a_judge_that_did_not_write_the_text_is_named_and_so_is_one_that_did(
        self, files, llama_folder, gpt2_folder
    ):
        arguments = [*self.arguments(files), "--method", "clamp"]
        for folder, said in ((llama_folder, ", which did not write the text"), (gpt2_folder, ", the model that wrote")):
            code, stdout, stderr = run(*arguments, "--judge", folder)
            assert code == 0, stderr
            assert f"slor, penlp: judged by {folder}{said}" in stdout
            head, unsteered = stdout[stdout.index("Generated text") :].splitlines()[1:3]
            row = dict(zip(head.split()[:5], unsteered.split()[:5], strict=True))
            stored = atlas.open(files[0]).sql(
                "select name, value from metrics join runs using (run_id) where generation_id is null and method = 'original' "
                "and name in ('slor', 'penlp') order by run_id desc, name limit 2"
            )
            assert [float(row[name]) for name in ("penlp", "slor")] == pytest.approx(
                stored["value"].to_list(), abs=5e-4
            )
            assert "Which topic a text is about: that whose held-out texts are nearest (right for " in stdout
        code, stdout, stderr = run(*arguments, "--judge", llama_folder, "--format", "csv")
        assert code == 0 and "original,slor," in stdout and "which did not write the text" in stderr
        code, stdout, stderr = run(*arguments)
        assert code == 0 and "slor, penlp: not measured; --judge names a language model" in stdout

    def test_a_judge_that_is_not_there_is_said_before_anything_is_generated(self, files, monkeypatch):
        monkeypatch.setattr(atlas.evaluation.evaluator, "generate_in_turn", None)
        code, _, stderr = run(*self.arguments(files), "--judge", "/nowhere/model")
        assert code == 1 and "cannot load language model /nowhere/model: there is no such folder" in stderr

    def test_python_evaluates_with_calibration_as_the_command_does(self, files, path, encoder, tmp_path):
        copies = [shutil.copy(path, tmp_path / f"{name}.atlas") for name in ("command", "python")]
        arguments = self.arguments((copies[0], files[1]))
        code, stdout, stderr = run(*arguments, "--method", "add", "--calibrate", "--format", "json")
        assert code == 0, stderr
        opened, curves = atlas.open(copies[1]), []
        frame = opened.evaluate(
            "sea", replace(DATA, prompts=(*PROMPTS, "Rain")), ["add"], calibrate=True, encoder=encoder,
            config=EvaluationConfig(samples=1, select="score", sampling=Sampling(max_new_tokens=4)),
            show_curve=lambda *found: curves.append(found),
        )  # fmt: skip
        assert frame.to_dicts() == json.loads(stdout)
        [(method, curve, picked)] = curves
        assert method == "add" and picked in curve["strength"]
        stored = [atlas.open(copy).sql("select method, strength from calibrations").rows() for copy in copies]
        assert stored == [[("add", picked)]] * 2

    def test_a_single_prompt_cannot_be_shared_by_calibration_and_evaluation(self, path, encoder):
        with pytest.raises(AtlasError, match="there is no prompt to generate from to evaluate on: give at least one"):
            atlas.open(path).evaluate("sea", replace(DATA, prompts=("She",)), ["add"], calibrate=True, encoder=encoder)

    def test_a_topic_without_bundled_texts_needs_a_file(self, files, path):
        with pytest.raises(PromptError, match="topic 'sea' has no bundled held-out texts"):
            atlas.open(path).evaluate("sea")
        code, _, stderr = run("evaluate", files[0], "sea")
        assert code == 1 and "topic 'sea' has no bundled held-out texts: name a file of some with --held-out" in stderr
