"""Exhibits are what they say they are, a stopped run goes on, and what cannot be made says what would make it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import polars as pl
import pytest
import tiny
from atlas.cli.main import cli
from click.testing import CliRunner
from contents import change
from scipy.stats import kendalltau

import atlas as library
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.evaluation.evaluator import EvaluationConfig
from atlas.evaluation.layer_level import activity
from atlas.models.hooks import hook_activations
from atlas.reproduction import (
    cost,
    design_choices,
    exhibit_inputs,
    generated_text,
    narrow_subjects,
    page,
    reference_set,
)
from atlas.reproduction import detection_curves as detection
from atlas.reproduction.exhibit_inputs import ExhibitInputs, ModelLocations, NotAvailable, TestTexts
from atlas.reproduction.exhibits import EXHIBITS
from atlas.reproduction.reproduce import make_exhibits
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.steering.generation import Sampling
from atlas.texts.pairs import collect_pairs

PROMPTS, NEURONS = 200, 30
PAIRS = collect_pairs(
    [(f"{a} {b}", " is good", " is bad") for a in ("Tea", "Rain", "A boat") for b in ("here", "there")]
)
PAST = collect_pairs(
    [(f"{who}", f" {a}", f" {b}") for who in ("She", "They", "We") for a, b in (("went", "go"), ("ate", "eat"))]
)
TEXTS = TestTexts(
    held_out={"medicine": tiny.PROMPTS[:6], "sea": tiny.PROMPTS[15:21]},
    unaligned=tiny.PROMPTS[30:38],
    prompts=("The", "A cold", "She was"),
    short={"medicine": tiny.MEDICINE[:1], "sea": tiny.SEA[:1]},
    pairs={"praise": PAIRS, "past": PAST},
    subjects={
        name: tiny.PROMPTS[15 * i : 15 * i + 15] for i, name in enumerate(("illness", "sailing", "food", "sports"))
    },
)
NOTHING = TestTexts(held_out={}, unaligned=(), prompts=())


# --- data questions, on an atlas made by hand ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raws():
    rng = np.random.default_rng(0)
    return [handmade.random_raw(rng, PROMPTS, NEURONS), handmade.random_raw(rng, PROMPTS, NEURONS + 5, share=0.1)]


@pytest.fixture(scope="module")
def vectors():
    return handmade.unit_vectors(np.random.default_rng(1), PROMPTS)


@pytest.fixture(scope="module")
def topics():
    return handmade.make_topics(np.random.default_rng(2), first=8, second=3)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory, raws, vectors, topics):
    """ExhibitInputs over an atlas made by hand, whose SAEs cannot be loaded."""
    folder = tmp_path_factory.mktemp("by_hand")
    store = handmade.make_store(folder / "x.atlas", raws, vectors)
    with store.write() as session:
        for key, raw in enumerate(raws):
            change(session, "update saes set d_sae = ? where sae_key = ?", [raw.shape[2], key])
    score_topics(store, topics[0], embed=topics[1], config=ScoringConfig(min_support=5, null_topics=0))
    return ExhibitInputs(library.open(store.path), NOTHING, folder=folder, topic="first")


def test_coverage_is_counted_over_the_first_prompts_of_each_order(by_hand, raws):
    frame = reference_set.coverage(by_hand)
    orders = reference_set.prompt_orders(PROMPTS)
    assert reference_set.set_sizes(PROMPTS) == [64, 128, 200]
    for key, raw in enumerate(raws):
        for size, least in itertools.product((64, 128, 200), (1, 20)):
            shares = [((raw[2][order < size] > 0).sum(axis=0) >= least).mean() for order in orders]
            row = frame.filter(
                (pl.col("sae_id") == f"sae-{key}") & (pl.col("prompts") == size) & (pl.col("least") == least)
            ).row(0, named=True)
            assert [row["value"], row["low"], row["high"]] == pytest.approx([np.mean(shares), min(shares), max(shares)])


def test_prompts_per_neuron_add_up_to_every_neuron_once(by_hand, raws):
    frame = reference_set.support(by_hand)
    for key, raw in enumerate(raws):
        mine, support = frame.filter(pl.col("sae_id") == f"sae-{key}"), (raw[2] > 0).sum(axis=0)
        assert mine["neurons"].sum() == raw.shape[2]
        for row in mine.to_dicts():
            assert row["neurons"] == ((support >= row["from_prompts"]) & (support <= row["to_prompts"])).sum()
            assert row["share"] == row["neurons"] / raw.shape[2]


def test_a_ranking_over_all_prompts_agrees_with_itself_and_grows_stable_with_the_set(by_hand):
    frame = reference_set.rank_stability(by_hand).filter(pl.col("sae_id") == "sae-0")
    for _, mine in frame.group_by("figure"):
        values = mine.sort("prompts")["value"].to_list()
        assert values[-1] == pytest.approx(1)
        assert values == sorted(values)
        assert values[0] < 0.95


def test_agreement_is_kendalls_tau_of_the_scores(by_hand, raws, vectors, topics):
    frame = design_choices.rank_agreement(by_hand)
    texts = np.stack([topics[1].vectors[text] for text in topics[0]["second"].texts])
    scores = [
        handmade.reference_scores(
            raws[1][handmade.SUMMARIES[summary]], vectors, texts, distance=distance, power=2, min_support=5
        )[1]
        for summary, distance in (("mean", "euclidean"), ("count", "cosine"))
    ]
    known = ~np.isnan(scores[0])
    row = frame.filter(
        (pl.col("sae_id") == "sae-1") & (pl.col("topic") == "second")
        & (pl.col("variant") == "mean, euclidean") & (pl.col("other") == "count, cosine")
    )  # fmt: skip
    assert row["tau"].item() == pytest.approx(kendalltau(scores[0][known], scores[1][known]).statistic, abs=1e-3)
    assert frame.height == 2 * 2 * 15


def test_variants_are_scored_in_a_copy(by_hand):
    before = hashlib.sha256(by_hand.atlas.store.path.read_bytes()).hexdigest()
    design_choices.rank_agreement(by_hand)
    assert hashlib.sha256(by_hand.atlas.store.path.read_bytes()).hexdigest() == before
    assert by_hand.copy.store.path != by_hand.atlas.store.path


def test_the_prompts_behind_a_neuron_weigh_1_and_give_its_mean_distance(by_hand):
    frame = design_choices.weights_by_distance(by_hand)
    sums = frame.group_by("neuron", maintain_order=True).agg(
        pl.col("weight").sum(), (pl.col("weight") * pl.col("distance") ** 2).sum().alias("g")
    )
    assert [name.split(":")[0] for name in sums["neuron"]] == list(design_choices.SHOWN)
    assert sums["weight"].to_list() == pytest.approx([1] * 4)
    assert sums["g"].to_list() == sorted(sums["g"].to_list())


def test_distances_within_and_between_topics_are_means_over_pairs_of_texts(by_hand, topics):
    sets = {name: np.stack([topics[1].vectors[t] for t in texts.texts]) for name, texts in topics[0].items()}
    frame = design_choices.topic_distances(by_hand)
    found = {(row["topic"], row["other"]): (row["pairs"], row["distance"]) for row in frame.to_dicts()}
    far = np.linalg.norm(sets["first"][:, None] - sets["second"][None], axis=2)
    own = [np.linalg.norm(a - b) for a, b in itertools.combinations(sets["first"], 2)]
    assert found["first", "second"] == (24, pytest.approx(far.mean(), rel=1e-5))
    assert found["first", "first"] == (28, pytest.approx(np.mean(own), rel=1e-5))
    assert len(found) == 3


def test_quantiles_are_those_of_the_scores(by_hand):
    scoring_id = by_hand.scorings["first"][0]
    with by_hand.session() as session:
        with session.frame("wanted_scorings", pl.DataFrame({"scoring_id": [scoring_id]})):
            row = session.ask("score_quantiles").row(0, named=True)
        scores = session.sql("from scores where scoring_id = $id", id=scoring_id)["score"].drop_nulls().to_numpy()
    assert row["neurons"] == len(scores)
    assert [row[q] for q in ("q05", "q25", "q50", "q75", "q95")] == pytest.approx(
        np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95))
    )


def test_what_needs_texts_that_are_not_there_names_the_option(by_hand):
    for compute, option in (
        (detection.curves, "--held-out"),
        (generated_text.one_topic, "--prompts"),
        (cost.per_token, "--prompts"),
    ):
        with pytest.raises(NotAvailable) as error:
            compute(by_hand)
        assert option in error.value.command
    with pytest.raises(NotAvailable, match="3 texts, no more than the smaller set of 6"):
        design_choices.score_distributions(by_hand)


# --- what the model fires, and the whole, on the tiny atlas -------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(built_atlas, encoder, tmp_path_factory):
    """A copy of the tiny atlas with two topics scored."""
    path = Path(shutil.copy(built_atlas, tmp_path_factory.mktemp("scored") / "tiny.atlas"))
    sets = {"medicine": list(tiny.MEDICINE), "sea": list(tiny.SEA)}
    library.open(path).score_many(sets, min_support=2)
    return library.open(path)


@pytest.fixture(scope="module")
def small():
    """Few tokens and few prompts, so that a model with a short context can do it."""
    with pytest.MonkeyPatch.context() as patch:
        config = EvaluationConfig(samples=1, sampling=Sampling(max_new_tokens=4), select="score")
        patch.setattr(generated_text, "CONFIG", config)
        for module in (exhibit_inputs, detection):
            patch.setattr(module, "DEFAULT_RULE", "score")
        patch.setattr(cost, "TOKENS", 4)
        patch.setattr(reference_set, "SMALLEST", 4)
        patch.setattr(narrow_subjects, "SIZES", (2, 1))
        patch.setattr(narrow_subjects, "TEST_TEXTS", 2)
        yield


@pytest.fixture(scope="module")
def encoders(encoder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhibit_inputs, "load_encoder", lambda name: encoder)
        yield


@pytest.fixture(scope="module")
def whole(scored, small, encoders, tmp_path_factory):
    """The folder and the table of a run over everything."""
    folder = tmp_path_factory.mktemp("whole") / "exhibits"
    before = scored.store.path.read_bytes()
    frame = make_exhibits(scored, folder, TEXTS)
    assert scored.store.path.read_bytes() == before
    return folder, frame


def best_ranks_by_hand(model, sae, texts, ranks):
    """Per token that counts the best rank among its active neurons, from the SAE's dense code."""
    found = []
    for caught, mask in hook_activations(model, texts, [sae.hook_name]):
        acts = sae.codec.encode(caught[sae.hook_name]).acts[mask].cpu().numpy()
        found += [ranks[np.flatnonzero(row)].min(initial=len(ranks)) for row in acts]
    return np.array(found)


def test_active_neurons_are_those_of_the_layer(scored, encoders, tmp_path):
    own = ExhibitInputs(scored, TEXTS, folder=tmp_path)
    for row in own.saes:
        fired, sae = own.activations(row, TEXTS.unaligned), own.steered_sae(row["sae_key"])
        arguments = (own.recorded.read_as(row), sae, list(TEXTS.unaligned))
        ranks = np.random.default_rng(0).permutation(row["d_sae"])
        every = activity(*arguments)
        best = best_ranks_by_hand(*arguments, ranks)
        np.testing.assert_array_equal(fired.best_ranks(ranks), best)
        np.testing.assert_allclose(fired.sums(ranks, 5), every[:, ranks < 5].sum(1), rtol=1e-4, atol=1e-6)
        both = detection.join([fired, fired])
        np.testing.assert_array_equal(both.best_ranks(ranks), np.concatenate([best, best]))
        np.testing.assert_allclose(both.sums(ranks, 5), np.tile(fired.sums(ranks, 5), 2))


def test_the_strawman_that_rankings_are_compared_with_is_the_scorer_of_that_name(scored, encoders, tmp_path):
    own = ExhibitInputs(scored, TEXTS, folder=tmp_path)
    for row in own.saes:
        sae, found = own.steered_sae(row["sae_key"]), own.strawman(row["sae_key"], "medicine")
        means = activity(own.recorded.read_as(row), sae, own.topic_texts("medicine")).mean(0)
        assert np.diff(means[found]).max() < 1e-6
        support = own.columns(row["sae_key"])["support"].to_numpy()
        assert set(found) == set(np.flatnonzero(support >= own.min_support))
        ranks = detection.rankings_of(own, row, "medicine")[detection.STRAWMAN][0]
        assert ranks[found].tolist() == list(range(len(found)))


def test_the_topic_is_found_better_than_by_chance_when_its_own_neuron_ranks_first():
    texts, neurons = np.array([0, 0, 1]), np.array([3, 1, 2])
    fired = exhibit_inputs.TokenActivations(
        np.array([0, 1, 2]), texts, neurons, np.array([4.0, 1.0, 2.0]), np.array([2, 1])
    )
    ranks = detection.ranks_of(np.array([3, 2]), 5)
    assert ranks.tolist() == [5, 5, 1, 0, 5]
    assert fired.best_ranks(ranks).tolist() == [0, 5, 1]
    assert fired.sums(ranks, 1).tolist() == [2, 0]


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_made_drawn_and_shown(whole, name):
    folder, frame = whole
    row = frame.filter(pl.col("name") == name).row(0, named=True)
    assert (row["state"], row["title"]) == ("made", EXHIBITS[name].title), row["ours"]
    assert pl.read_csv(folder / f"{name}.csv").height > 0
    assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text = (folder / "index.html").read_text()
    assert f'<h2 id="{name}">' in text
    assert f"--only {name} --redo" in text and f'href="{name}.csv"' in text
    assert row["ours"] and page.escape(EXHIBITS[name].caption) in text


def test_the_page_stands_alone(whole):
    text = (whole[0] / "index.html").read_text()
    assert text.count("data:image/png;base64,") == len(EXHIBITS)
    assert not re.search(r"<script|https?://", text)
    assert "average tau 0.741" in text and "6.204 s unsteered" in text


def test_the_overlap_of_behaviours_is_of_the_vectors_that_were_tried(whole):
    frame = pl.read_csv(whole[0] / "sas_overlap.csv")
    assert set(frame.select("behaviour", "other").rows()) == {("past", "praise")}
    assert set(frame["kind"]) == {"sas", "dense"}
    assert frame.filter(pl.col("kind") == "dense")["jaccard"].to_list() == [1.0, 1.0]
    assert frame["cosine"].abs().max() <= 1


def test_one_behaviour_alone_has_no_overlap_and_no_unrelated_questions(scored, encoders, tmp_path):
    alone = replace(TEXTS, pairs={"praise": PAIRS})
    frame = make_exhibits(scored, tmp_path / "alone", alone, only=["sas_overlap", "sas_unrelated"])
    missing = frame.filter(pl.col("state") == "not available")
    assert missing["name"].to_list() == ["sas_unrelated", "sas_overlap"]
    assert all("contrast pairs of one behaviour only" in text for text in missing["ours"])


def test_only_what_the_paper_numbers_is_called_by_a_number():
    assert page.headline("table_2", "Generated text") == "Table 2: Generated text"
    assert page.headline("sas_shift", "SAS: choices") == "SAS: choices"


def test_a_finished_exhibit_is_kept_and_a_picture_that_is_gone_is_drawn_again(whole, scored, tmp_path):
    folder = Path(shutil.copytree(whole[0], tmp_path / "again"))
    before = (folder / "figure_8.csv").read_bytes()
    (folder / "figure_8.png").unlink()
    (folder / "table_5.csv").unlink()
    frame = make_exhibits(scored, folder, TEXTS)
    states = dict(frame.select("name", "state").iter_rows())
    assert states.pop("table_5") == "made"
    assert set(states.values()) == {"there already"}
    assert (folder / "figure_8.png").exists() and (folder / "figure_8.csv").read_bytes() == before


def test_redo_makes_the_named_ones_again_and_no_other(whole, scored, small, tmp_path):
    folder = Path(shutil.copytree(whole[0], tmp_path / "redo"))
    for name in ("figure_8", "figure_3"):
        (folder / f"{name}.csv").write_text((folder / f"{name}.csv").read_text().replace("residual", "another"))
    frame = make_exhibits(scored, folder, TEXTS, only=["figure_8"], redo=True)
    assert frame.filter(pl.col("state") == "made")["name"].to_list() == ["figure_8"]
    assert "another" not in (folder / "figure_8.csv").read_text()
    assert "another" in (folder / "figure_3.csv").read_text()


def test_a_folder_made_from_something_else_is_refused_and_redo_clears_it(whole, scored, tmp_path):
    folder = Path(shutil.copytree(whole[0], tmp_path / "other"))
    with pytest.raises(StoreError, match="holds exhibits made from other topic: name another folder, or --redo"):
        make_exhibits(scored, folder, TEXTS, topic="sea")
    frame = make_exhibits(scored, folder, TEXTS, topic="sea", only=["figure_8"], redo=True)
    assert sorted(path.name for path in folder.glob("*.csv")) == ["figure_8.csv"]
    assert set(frame["state"]) == {"made", "not made yet"}
    assert json.loads((folder / "settings.json").read_text())["topic"] == "sea"


def test_a_model_that_is_gone_leaves_what_needs_no_model(scored, small, encoders, tmp_path):
    path = Path(shutil.copy(scored.store.path, tmp_path / "moved.atlas"))
    with library.open(path).store.write() as session:
        change(session, "update saes set model = '/gone/model'")
    wanted = ["table_4", "figure_5", "figure_3", "topic_distances"]
    frame = make_exhibits(library.open(path), tmp_path / "out", TEXTS, only=wanted)
    rows = {row["name"]: row for row in frame.to_dicts()}
    assert [rows[name]["state"] for name in wanted] == ["not available", "not available", "made", "made"]
    assert "/gone/model is gone: say where it is now with --model" in rows["table_4"]["ours"]
    assert (tmp_path / "out" / "index.html").read_text().count("/gone/model is gone") == 2
    assert not (tmp_path / "out" / "table_4.csv").exists()


def test_a_model_elsewhere_is_taken(scored, small, encoders, gpt2_folder, tmp_path):
    path = Path(shutil.copy(scored.store.path, tmp_path / "moved.atlas"))
    with library.open(path).store.write() as session:
        change(session, "update saes set model = '/gone/model'")
    frame = make_exhibits(
        library.open(path), tmp_path / "out", TEXTS, only=["table_4"], locations=ModelLocations(model=str(gpt2_folder))
    )
    assert frame.filter(pl.col("name") == "table_4")["state"].item() == "made"


def test_signals_that_the_default_selection_needs_are_made_in_a_copy(scored, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr("atlas.reproduction.exhibit_inputs.DEFAULT_RULE", "combined")
    own = ExhibitInputs(scored, TEXTS, folder=tmp_path)
    with own.steering.store.read() as session:
        assert session.ask("current_scorings", topic="sea", scorer="contrast").height == len(own.saes)
    with own.session() as session:
        assert session.ask("current_scorings", topic="sea", scorer="contrast").is_empty()


def test_differences_in_the_table_are_paired_by_prompt(whole):
    frame = pl.read_csv(whole[0] / "table_2.csv")
    assert set(frame["arithmetic"]) == {"paper", "default"}
    plain = frame.filter((pl.col("method") == "original") & (pl.col("figure") == "distance_held_out"))["value"].item()
    for row in frame.filter(pl.col("figure") == "distance_held_out - original").to_dicts():
        own = frame.filter(
            (pl.col("method") == row["method"]) & (pl.col("arithmetic") == row["arithmetic"])
            & (pl.col("figure") == "distance_held_out")
        )["value"].item()  # fmt: skip
        assert row["value"] == pytest.approx(own - plain, abs=1e-9)


def test_a_missing_classifier_and_a_missing_baseline_are_said(whole):
    ours = whole[1].filter(pl.col("name") == "table_2")["ours"].item()
    assert "no classifier cached: hf download textattack/roberta-base-CoLA" in ours
    assert "--finetune FOLDER" in ours


def test_a_folder_of_fine_tuned_models_adds_the_baseline(scored, small, encoders, tmp_path):
    arguments = (scored, tmp_path / "out", TEXTS)
    make_exhibits(*arguments, only=["table_2"], finetuned=tmp_path / "tuned")
    assert "finetuned" in pl.read_csv(tmp_path / "out" / "table_2.csv")["method"]
    assert (tmp_path / "tuned" / "medicine" / "finetuned.json").exists()


def test_bad_names_and_a_missing_library_are_said_in_one_line(scored, tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="unknown exhibit 'figure_33': known are figure_3"):
        make_exhibits(scored, tmp_path / "out", TEXTS, only=["figure_33"])
    with pytest.raises(AtlasError, match="topic 'shoes' is not scored for every SAE: take one of medicine, sea"):
        make_exhibits(scored, tmp_path / "out", TEXTS, topic="shoes")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file is a file: name a folder"):
        make_exhibits(scored, tmp_path / "file", TEXTS)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AtlasError, match=r"pip install 'neuron-atlas\[plots\]'"):
        make_exhibits(scored, tmp_path / "out", TEXTS)


def test_the_command_prints_a_line_per_exhibit_and_where_the_page_is(scored, tmp_path):
    arguments = ["reproduce", str(scored.store.path), "--out", str(tmp_path / "out"), "--only", "figure_8"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(EXHIBITS) + 3
    assert lines[-1] == f"Open {tmp_path / 'out' / 'index.html'}"
    rows = json.loads(CliRunner().invoke(cli, [*arguments, "--format", "json"]).stdout)
    assert {row["name"]: row["state"] for row in rows}["figure_8"] == "there already"
