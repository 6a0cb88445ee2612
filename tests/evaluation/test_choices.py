"""Two-choice evaluation: probabilities by hand, held-out pairs, controls and ablations, and what is stored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from command import run
from contents import change

import atlas
from atlas.contrast.make_vectors import make_vectors, sweep_tau
from atlas.contrast.pair_tokens import tokenize_pairs
from atlas.errors import AtlasError, UnknownName
from atlas.evaluation.choice_trial import PREFIX, ChoiceConfig, ChoiceSet, choose
from atlas.evaluation.choices import evaluate_choices
from atlas.evaluation.controls import PERMUTATIONS
from atlas.evaluation.metrics import METRICS
from atlas.evaluation.remeasure import remeasure_topic
from atlas.evaluation.runs import MethodSetting
from atlas.evaluation.vector_variants import ABLATIONS, load_vectors
from atlas.models.likelihood import log_probabilities, perplexities
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import special_ids
from atlas.steering.generation import Sampling, generate
from atlas.steering.intervention import Steering
from atlas.steering.settings import Options
from atlas.steering.targets import load_steered_saes
from atlas.texts.pairs import collect_pairs, split_pairs

LETTERS = collect_pairs([(f"{text}\n(A) yes\n(B) no", " (A)", " (B)") for text in ("Rain?", "The sea?")])
PAIRS = collect_pairs(
    [
        ("She", " took a pill.", " ate fish."),
        ("He", " had a fever.", " had a boat."),
        ("They", " gave the drug.", " won the race."),
        ("We", " saw the doctor.", " saw the sea."),
        ("I", " felt pain.", " felt wind."),
        ("You", " need rest.", " need salt."),
    ]
)
TEXTS = tiny.PROMPTS[40:44]
UNRELATED = collect_pairs([("It is", " raining.", " snowing."), ("The team", " won.", " lost."), PAIRS.rows()[0]])
DATA = ChoiceSet(PAIRS, TEXTS, UNRELATED)
CONFIG = ChoiceConfig(strengths=(-2.0, 0.0, 2.0), taus=(0.3,), position="mean", sigma="none")


@pytest.fixture
def opened(atlas_file):
    return atlas.open(atlas_file)


@pytest.fixture
def tokenizer(language_model):
    return language_model.tokenizer


@pytest.fixture
def loaded(transformer, tokenizer):
    return LoadedModel(transformer, tokenizer, True)


def ids_of(tokenizer, text):
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


@torch.no_grad()
def chances(model, ids):
    """Log-probability of each token given those before, the first left out."""
    logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def sides_of(tokenizer, pairs):
    return tokenize_pairs(tokenizer, pairs, prepend_bos=True, context=tiny.CONTEXT)


def test_lettered_answers_are_chosen_by_the_probability_of_the_letter(loaded, transformer, tokenizer):
    found = choose(loaded, sides_of(tokenizer, LETTERS))
    for value, (prompt, *_) in zip(found, LETTERS.rows(), strict=True):
        ids = ids_of(tokenizer, f"{prompt} (")
        with torch.no_grad():
            after = transformer(torch.tensor([ids])).logits[0, -1].softmax(-1)
        a, b = (float(after[tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB")
        assert value == pytest.approx(a / (a + b), rel=1e-4)


def test_longer_completions_are_chosen_by_the_mean_over_the_tokens_that_differ(loaded, transformer, tokenizer):
    found = choose(loaded, sides_of(tokenizer, PAIRS))
    for value, (prompt, *texts) in zip(found, PAIRS.rows(), strict=True):
        ids = [ids_of(tokenizer, prompt + text) for text in texts]
        shared = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
        tail = next(i for i, (a, b) in enumerate(zip(*(row[::-1] for row in ids), strict=False)) if a != b)
        assert tail > 0, "all end in a full stop"
        means = [chances(transformer, row)[shared - 1 : len(row) - 1 - tail].mean() for row in ids]
        assert value == pytest.approx(np.exp(means[0]) / np.exp(means).sum(), rel=1e-4)


def test_swapping_the_sides_gives_the_other_probability(loaded, tokenizer):
    swapped = collect_pairs([(prompt, b, a) for prompt, a, b in PAIRS.rows()])
    found = [choose(loaded, sides_of(tokenizer, pairs)) for pairs in (PAIRS, swapped)]
    np.testing.assert_allclose(found[0] + found[1], 1)
    assert found[0].std() > 0.01


@pytest.mark.parametrize(
    ("positive", "negative"), [(" a pill", " a pill with care"), (" the drug", " a new drug"), (" a a", " a")]
)
def test_a_side_that_is_part_of_the_other_still_has_a_token_of_its_own(loaded, tokenizer, positive, negative):
    found = choose(loaded, sides_of(tokenizer, collect_pairs([("He took", positive, negative)])))
    assert 0 < found[0] < 1


def test_a_completion_with_nothing_before_it_is_refused(loaded, tokenizer):
    sides = tokenize_pairs(tokenizer, collect_pairs([("", "A", "B")]), prepend_bos=False, context=9)
    with pytest.raises(AtlasError, match="pair 1 has one token and nothing before it"):
        choose(loaded, sides)


def test_log_probabilities_do_not_depend_on_the_batch(loaded, transformer, tokenizer):
    rows = [ids_of(tokenizer, text) for text in tiny.PROMPTS[:20]]
    found = log_probabilities(loaded, rows, [(1, len(row)) for row in rows])
    for row, values in zip(rows, found, strict=True):
        np.testing.assert_allclose(values, chances(transformer, row), atol=1e-4)
    np.testing.assert_allclose(perplexities(loaded, rows), [np.exp(-values.mean()) for values in found], rtol=1e-6)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, built_atlas):
    """An evaluated copy of the atlas, and the frame."""
    path = tmp_path_factory.mktemp("choices") / "x.atlas"
    path.write_bytes(built_atlas.read_bytes())
    opened = atlas.open(path)
    config = replace(CONFIG, ablations=True)
    return opened, evaluate_choices(opened.store, "medical", DATA, methods=("sas", "dense", "filtered"), config=config)


def figures(frame, method, strength, name):
    chosen = pl.col("strength").is_null() if strength is None else pl.col("strength") == strength
    return frame.filter((pl.col("method") == method) & chosen & (pl.col("name") == name)).row(0, named=True)


def test_every_method_has_its_control_and_sas_its_ablations(evaluated):
    _, frame = evaluated
    names = {"original", *(f"{name}{part}" for name in ("sas", "dense", "filtered") for part in ("", "/random"))}
    assert set(frame["method"]) == names | {f"sas/{name}" for name in ABLATIONS}


def test_vectors_are_made_from_the_pairs_that_are_not_held_out(evaluated):
    opened, _ = evaluated
    made, held = split_pairs(PAIRS, 0.5)
    assert (
        opened.sql("select prompt, positive, negative from pairs where name = 'medical/choices'").rows() == made.rows()
    )
    parameters = [json.loads(text) for text in opened.sql("select parameters from runs")["parameters"]]
    assert {row["pairs"] for row in parameters} == {len(held)}
    assert {row["vector"] for row in parameters} == {"medical/choices"}


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("strength", [-2.0, 2.0])
def test_the_shift_is_that_of_held_out_pairs_under_a_steered_model(
    evaluated, loaded, transformer, tokenizer, prefix, strength
):
    opened, frame = evaluated
    _, held = split_pairs(PAIRS, 0.5)
    given = collect_pairs([(f"{p}\n\n{prefix}" if prefix else p, a, b) for p, a, b in held.rows()])
    sides = sides_of(tokenizer, given)
    plain = choose(loaded, sides)
    settings = {"method": "dense", "vector": "medical/choices", "strength": strength, "tokenizer": tokenizer}
    with opened.steer(transformer, None, **settings):
        steered = choose(loaded, sides)
    after = f" after '{prefix}'" if prefix else ""
    shift = figures(frame, "dense", strength, f"shift{after}")
    assert shift["value"] == pytest.approx((steered - plain).mean(), abs=1e-5)
    assert abs(shift["value"]) > 1e-4
    assert shift["low"] < shift["value"] < shift["high"]
    assert figures(frame, "dense", strength, f"probability{after}")["value"] == pytest.approx(steered.mean(), rel=1e-4)
    assert figures(frame, "original", None, f"probability{after}")["value"] == pytest.approx(plain.mean(), rel=1e-4)


def test_the_price_is_the_perplexity_of_the_unrelated_texts(evaluated, loaded, transformer, tokenizer):
    opened, frame = evaluated
    rows = [ids_of(tokenizer, text) for text in TEXTS]
    plain = perplexities(loaded, rows)
    settings = {"method": "dense", "vector": "medical/choices", "strength": 2.0, "tokenizer": tokenizer}
    with opened.steer(transformer, None, **settings):
        steered = perplexities(loaded, rows)
    assert figures(frame, "dense", 2.0, "unrelated perplexity")["value"] == pytest.approx(steered.mean(), rel=1e-4)
    assert figures(frame, "dense", 2.0, "unrelated perplexity ratio")["value"] == pytest.approx(
        (steered / plain).mean(), rel=1e-4
    )
    assert figures(frame, "original", None, "unrelated perplexity")["value"] == pytest.approx(plain.mean(), rel=1e-4)


def test_strength_0_shifts_nothing_whatever_the_method(evaluated):
    _, frame = evaluated
    still = frame.filter(pl.col("strength") == 0)
    assert still["method"].n_unique() == 9
    control = pl.col("method").str.ends_with("/random")  # answers in smaller batches: equal up to rounding
    shifts = still.filter(pl.col("name").str.contains("shift"))
    assert shifts.filter(~control)["value"].abs().max() == 0
    assert shifts.filter(control)["value"].abs().max() < 1e-6
    ratios = still.filter(pl.col("name") == "unrelated perplexity ratio")
    assert ratios.filter(~control)["value"].unique().to_list() == [1.0]
    assert ratios.filter(control)["value"].to_list() == pytest.approx([1.0] * 3)


def test_what_is_returned_is_what_is_stored(evaluated):
    opened, frame = evaluated
    stored = opened.sql(
        "select r.method, r.parameters::json->'sae_ids'->>0 as sae_id, (r.parameters::json->>'tau')::double as tau, "
        "(r.parameters::json->'options'->>'strength')::double as strength, m.name, m.value, m.low, m.high "
        "from runs as r join metrics as m using (run_id) where r.topic = 'medical'"
    )
    keys = ["method", "strength", "name"]
    assert stored.sort(keys).equals(frame.sort(keys), null_equal=True)
    assert opened.sql("select count(distinct evaluation_id) as n from runs").item() == 1


def test_a_random_control_has_the_same_entries_elsewhere_and_parts_add_up(evaluated):
    opened, _ = evaluated
    vectors = load_vectors(opened.store, RecordedModels(opened.store), "medical/choices")
    [own] = vectors.saes
    moved = vectors.sae_sets(MethodSetting("sas", Options(), "random"), 0)
    assert len(moved) == PERMUTATIONS
    for [random] in moved:
        for name in ("sas", "difference"):
            before, after = own.target.vector(name), random.target.vector(name)
            assert not torch.equal(before, after)
            assert torch.equal(before.sort().values, after.sort().values)
        assert float(random.target.vector("dense").norm()) == pytest.approx(
            float(own.target.vector("dense").norm()), rel=1e-5
        )
        assert (
            abs(float(torch.cosine_similarity(random.target.vector("dense"), own.target.vector("dense"), dim=0))) < 0.6
        )
    assert len({tuple(random.target.vector("sas").tolist()) for [random] in moved}) == PERMUTATIONS
    parts = [vectors.sae_sets(MethodSetting("sas", ablation=f"{side} part"), 0) for side in ("positive", "negative")]
    torch.testing.assert_close(sum(sae.target.vector("sas") for [[sae]] in parts), own.target.vector("sas"))


def test_a_control_answers_pair_i_under_its_permutation_i(evaluated, loaded, transformer, tokenizer):
    opened, frame = evaluated
    _, held = split_pairs(PAIRS, 0.5)
    vectors = load_vectors(opened.store, RecordedModels(opened.store), "medical/choices")
    setting = MethodSetting("dense", Options(2.0), "random")
    found = []
    for saes, pair in zip(vectors.sae_sets(setting, 0), sides_of(tokenizer, held), strict=False):
        with Steering(
            transformer, saes, method="dense", options=setting.options, special_ids=tokenizer.all_special_ids
        ):
            found += list(choose(loaded, [pair]))
    assert len(found) == len(held) < PERMUTATIONS
    value = figures(frame, "dense/random", 2.0, "probability")["value"]
    assert value == pytest.approx(np.mean(found), rel=1e-4)
    assert value != pytest.approx(figures(frame, "original", None, "probability")["value"], rel=1e-4)


def test_dropping_the_error_steers_otherwise(evaluated):
    _, frame = evaluated
    kept, dropped = (figures(frame, name, 2.0, "probability")["value"] for name in ("sas", "sas/error dropped"))
    assert kept != pytest.approx(dropped, abs=1e-5)


def test_an_evaluation_does_not_touch_the_vector_of_that_name_and_another_split_makes_its_own(opened):
    make_vectors(opened.store, "medical", PAIRS)
    before = opened.sql("select * from vectors where name = 'medical'").rows()
    for share, pairs in ((0.5, 3), (0.34, 4)):
        config = ChoiceConfig(strengths=(1.0,), taus=(0.3,), position="mean", held_out=share)
        evaluate_choices(opened.store, "medical", DATA, methods=["dense"], config=config)
        made = opened.sql("select distinct pairs from vectors where name = 'medical/choices'")
        assert made["pairs"].to_list() == [pairs]
    assert opened.sql("select * from vectors where name = 'medical'").rows() == before


@pytest.mark.parametrize("strength", [-2.0, 2.0])
def test_unrelated_pairs_are_answered_under_the_same_steering_and_the_behaviours_own_are_left_out(
    evaluated, loaded, transformer, tokenizer, strength
):
    opened, frame = evaluated
    sides = sides_of(tokenizer, collect_pairs(UNRELATED.rows()[:2]))
    plain = choose(loaded, sides)
    settings = {"method": "dense", "vector": "medical/choices", "strength": strength, "tokenizer": tokenizer}
    with opened.steer(transformer, None, **settings):
        steered = choose(loaded, sides)
    for method, at, expected in (("original", None, plain), ("dense", strength, steered)):
        assert figures(frame, method, at, "unrelated probability")["value"] == pytest.approx(expected.mean(), rel=1e-4)
        assert figures(frame, method, at, "unrelated accuracy")["value"] == (expected > 0.5).mean()
    shift = figures(frame, "dense", strength, "unrelated shift")["value"]
    assert shift == pytest.approx((steered - plain).mean(), abs=1e-5) != 0


def test_without_unrelated_pairs_there_is_no_figure_of_them(opened):
    for unrelated in (None, PAIRS):
        config = replace(CONFIG, strengths=(1.0,))
        frame = evaluate_choices(
            opened.store, "medical", ChoiceSet(PAIRS, TEXTS, unrelated), methods=["dense"], config=config
        )
        assert {name for name in frame["name"] if "unrelated" in name} == {
            "unrelated perplexity", "unrelated perplexity ratio",
        }  # fmt: skip


def test_every_tau_and_every_sae_has_a_sparse_vector_of_its_own(opened):
    taus = (0.2, 0.4)
    config = ChoiceConfig(strengths=(1.0,), taus=taus, position="mean", sigma="none")
    frame = evaluate_choices(opened.store, "medical", DATA, config=config, each_sae=True)
    plain = frame.filter((pl.col("method") == "original") & (pl.col("name") == "probability"))
    assert plain.select("sae_id", "tau").rows() == [("residual", None), ("heads", None)], "they differ in BOS policy"
    assert plain["value"].n_unique() == 2
    sparse = frame.filter((pl.col("method") == "sas") & (pl.col("name") == "entries"))
    assert sparse.select("sae_id", "tau").rows() == [(sae, tau) for sae in ("residual", "heads") for tau in taus]
    swept = sweep_tau(opened.store, "medical/choices", taus)
    assert sparse.sort("sae_id", "tau")["value"].to_list() == swept.sort("sae_id", "tau")["entries"].to_list()
    assert sparse["value"].n_unique() > 2
    share = frame.filter((pl.col("method") == "sas") & (pl.col("name") == "share of neurons"))
    widths = {"residual": 24, "heads": 40}
    assert [row["value"] * widths[row["sae_id"]] for row in share.to_dicts()] == pytest.approx(
        sparse["value"].to_list()
    )
    dense = frame.filter((pl.col("method") == "dense") & (pl.col("name") == "shift"))
    assert dense.select("sae_id", "tau").rows() == [("residual", None), ("heads", None)]
    shifts = frame.filter((pl.col("method") == "sas") & (pl.col("name") == "shift"))["value"]
    assert shifts.n_unique() == 4


def test_a_tau_that_leaves_nothing_is_counted_among_several_and_refused_alone(opened):
    config = ChoiceConfig(strengths=(1.0,), taus=(0.4, 1.0), position="mean")
    frame = evaluate_choices(opened.store, "medical", DATA, methods=["sas"], config=config)
    empty = frame.filter(pl.col("tau") == 1.0)
    assert empty.select("method", "strength", "name", "value").rows() == [
        ("sas", None, "entries", 0.0), ("sas", None, "share of neurons", 0.0),
    ]  # fmt: skip
    assert frame.filter((pl.col("tau") == 0.4) & (pl.col("name") == "shift")).height == 2
    with pytest.raises(AtlasError, match="the vector has no entry for method sas at blocks.0.hook_resid_post"):
        evaluate_choices(opened.store, "medical", DATA, methods=["sas"], config=replace(config, taus=(1.0,)))


@pytest.fixture(scope="module")
def written(tmp_path_factory, built_atlas, encoder):
    path = tmp_path_factory.mktemp("written") / "x.atlas"
    path.write_bytes(built_atlas.read_bytes())
    opened = atlas.open(path)
    config = replace(CONFIG, strengths=(2.0,), samples=2, sampling=TestGeneratedText.SAMPLING)
    return opened, evaluate_choices(opened.store, "medical", DATA, methods=["dense"], config=config, encoder=encoder)


class TestGeneratedText:
    """With samples, what a vector writes is stored and measured like every run."""

    SAMPLING = Sampling(max_new_tokens=4, seed=3)

    def texts(self, opened, method):
        return opened.sql(
            f"select g.* from generations as g join runs as r using (run_id) where r.method = '{method}' order by generation_id"
        )

    def test_it_goes_on_from_the_prompts_of_the_pairs_that_are_tried(self, written, loaded, transformer, tokenizer):
        opened, _ = written
        _, held = split_pairs(PAIRS, 0.5)
        prompts = [prompt for prompt in held.prompts for _ in range(2)]
        [sae] = load_vectors(opened.store, RecordedModels(opened.store), "medical/choices").saes
        for method in ("original", "dense"):
            stored = self.texts(opened, method)
            assert stored["prompt"].to_list() == prompts
            assert stored["seed"].to_list() == list(range(3, 3 + len(prompts)))
            options = Options(2.0 if method == "dense" else None)
            steering = Steering(transformer, [sae], method=method, options=options, special_ids=special_ids(tokenizer))
            seeds = range(3, 3 + len(prompts))
            expected = generate(loaded, prompts, steering, sampling=self.SAMPLING, seeds=seeds)
            assert stored["text"].to_list() == [text.text for text in expected]
        assert self.texts(opened, "original")["text"].to_list() != self.texts(opened, "dense")["text"].to_list()

    def test_it_names_the_vector_that_steered_it(self, written):
        opened, _ = written
        [vector] = opened.sql("select vector_id from vectors where kind = 'dense' and sae_key = 0")["vector_id"]
        assert set(map(tuple, self.texts(opened, "dense")["vector_ids"].to_list())) == {(vector,)}
        assert set(map(tuple, self.texts(opened, "original")["vector_ids"].to_list())) == {()}

    def test_it_is_measured_against_the_completions_of_both_sides(self, written, encoder):
        opened, frame = written
        _, held = split_pairs(PAIRS, 0.5)
        texts = self.texts(opened, "dense")
        own = encoder.embed(texts["text"].to_list())
        far = {
            side: np.linalg.norm(own[:, None] - encoder.embed(given)[None], axis=2).min(1)
            for side, given in (("positive", held.positives), ("negative", held.negatives))
        }
        stored = opened.sql("select generation_id, name, value from metrics where generation_id is not null")
        for name, expected in (
            ("distance_positive", far["positive"]),
            ("distance_negative", far["negative"]),
            ("leaning", far["negative"] - far["positive"]),
        ):
            values = texts.join(stored.filter(pl.col("name") == name), on="generation_id", how="left")["value"]
            kept = [text.strip() != "" for text in texts["text"]]
            np.testing.assert_allclose(values.drop_nulls(), expected[kept], atol=1e-4)
        assert {"perplexity", "distinct_2", "leaning", "leaning - original"} <= set(frame["name"])
        assert not {"distance_topic", "contamination"} & set(stored["name"])
        assert set(stored["name"]) <= set(METRICS) | {"kept", "new", "dropped"}

    def test_gains_are_paired_by_prompt(self, written):
        opened, frame = written
        values = opened.sql(
            "select generation_id, value from metrics where name = 'leaning' and generation_id is not null"
        )
        own, plain = (
            self.texts(opened, method).join(values, on="generation_id", how="left").group_by("prompt", maintain_order=True)
            .agg(pl.col("value").mean())["value"]
            for method in ("dense", "original")
        )  # fmt: skip
        gain = figures(frame, "dense", 2.0, "leaning - original")
        assert gain["value"] == pytest.approx((own - plain).mean()) != 0
        assert gain["low"] < gain["value"] < gain["high"]

    def test_texts_of_saes_that_differ_in_bos_policy_are_measured_again_each_by_its_own(
        self, opened, encoder, monkeypatch
    ):
        config = replace(CONFIG, strengths=(2.0,), samples=1, sampling=self.SAMPLING)
        evaluate_choices(
            opened.store, "medical", DATA, methods=["dense"], config=config, encoder=encoder, each_sae=True
        )
        lost = "name = 'perplexity' and generation_id is not null"
        before = opened.sql(f"from metrics where {lost} order by generation_id")
        figures = opened.sql("from metrics where generation_id is null order by run_id, name")
        with opened.store.write() as session:
            change(session, f"delete from metrics where {lost}")
        monkeypatch.setattr("atlas.evaluation.remeasure.load_encoder", lambda name: encoder)
        assert remeasure_topic(opened.store, "medical", ()) == before.height > 0
        after = opened.sql(f"from metrics where {lost} order by generation_id")
        np.testing.assert_allclose(after["value"], before["value"], rtol=1e-3)
        renewed = opened.sql("from metrics where generation_id is null order by run_id, name")
        assert renewed.select("run_id", "name").equals(figures.select("run_id", "name"))
        exact = ~pl.col("name").str.starts_with("perplexity")
        assert renewed.filter(exact).equals(figures.filter(exact))

    def test_openings_can_be_named_and_pairs_without_prompts_need_them(self, opened, encoder):
        config = replace(CONFIG, strengths=(2.0,), samples=1, sampling=self.SAMPLING)
        bare = collect_pairs([("", text, other) for _, text, other in PAIRS.rows()])
        with pytest.raises(AtlasError, match="no pair has a prompt to generate from that fits into the context"):
            evaluate_choices(
                opened.store, "bare", ChoiceSet(bare, TEXTS), methods=["dense"], config=config, encoder=encoder
            )
        data = ChoiceSet(bare, TEXTS, prompts=["Rain", "Sun"])
        evaluate_choices(opened.store, "bare", data, methods=["dense"], config=config, encoder=encoder)
        assert self.texts(opened, "dense")["prompt"].to_list() == ["Rain", "Sun"]


def test_a_vector_that_is_there_is_tried_on_other_pairs_only(opened):
    made, held = split_pairs(PAIRS, 0.5)
    make_vectors(opened.store, "medical", made, tau=0.3)
    config = ChoiceConfig(strengths=(1.0,), held_out=1)
    frame = evaluate_choices(opened.store, "medical", ChoiceSet(held, TEXTS), methods=["dense"], config=config)
    assert figures(frame, "dense", 1.0, "shift")["value"] != 0
    assert opened.sql("select distinct name from vectors")["name"].to_list() == ["medical"]
    with pytest.raises(AtlasError, match="'medical' was made from 3 of these pairs: give others, or lower --held-out"):
        evaluate_choices(opened.store, "medical", DATA, config=config)


def test_what_cannot_be_evaluated_is_said(opened):
    with pytest.raises(UnknownName, match="unknown method that steers by a vector 'swap': known are"):
        evaluate_choices(opened.store, "medical", DATA, methods=["swap"])
    with pytest.raises(AtlasError, match="1 pairs are too few to hold out 0.5 of them"):
        evaluate_choices(opened.store, "medical", ChoiceSet(collect_pairs(PAIRS.rows()[:1]), TEXTS))
    with pytest.raises(AtlasError, match="held_out 0 is out of range"):
        ChoiceConfig(held_out=0)
    with pytest.raises(AtlasError, match="has its tau: lower --held-out to compare several"):
        ChoiceConfig(held_out=1, taus=(0.1, 0.2))
    with pytest.raises(AtlasError, match="samples -1 is negative"):
        ChoiceConfig(samples=-1)
    with pytest.raises(AtlasError, match="tau 1.5 is out of range"):
        ChoiceConfig(taus=(0.1, 1.5))
    with pytest.raises(UnknownName, match="unknown vector 'medical'"):
        evaluate_choices(opened.store, "medical", DATA, config=ChoiceConfig(held_out=1))
    assert opened.sql("select count(*) as n from runs").item() == 0


def test_the_command_prints_a_row_per_method_and_strength(atlas_file, tmp_path):
    pairs, texts = tmp_path / "pairs.jsonl", tmp_path / "texts.txt"
    pl.DataFrame(PAIRS.rows(), schema=["prompt", "positive", "negative"], orient="row").write_ndjson(pairs)
    texts.write_text("\n".join(TEXTS))
    arguments = ("choices", atlas_file, "medical", pairs, "--texts", texts, "--method", "dense", "--strength", -1)
    code, stdout, stderr = run(*arguments, "--strength", 1)
    assert code == 0, stderr
    lines = [line.split() for line in stdout.splitlines()]
    assert lines[0] == [
        "method", "strength", "probability", "shift", "shift_prefixed", "unrelated_shift", "unrelated_accuracy",
        "perplexity_ratio",
    ]  # fmt: skip
    assert [line[:2] for line in lines[1:]] == [
        ["original", "-"], ["dense", "-1.000"], ["dense", "1.000"], ["dense/random", "-1.000"], ["dense/random", "1.000"],
    ]  # fmt: skip
    found = json.loads(run(*arguments, "--format", "json")[1])
    shift = next(row for row in found if (row["method"], row["strength"], row["name"]) == ("dense", -1.0, "shift"))
    assert " ".join(lines[2][3:6]) == f"{shift['value']:.3f} [{shift['low']:.3f}, {shift['high']:.3f}]"
    assert set(found[0]) == {"method", "sae_id", "tau", "strength", "name", "value", "low", "high"}
    made = load_steered_saes(RecordedModels(atlas.open(atlas_file).store), None, vectors=["medical/choices"])
    assert made.rows[0]["sae_key"] == 0


def test_the_command_shows_what_it_is_told_to_compare_and_finds_bundled_pairs(atlas_file, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    arguments = ("choices", atlas_file, "question", "--texts", texts, "--strength", 1, "--position", "mean")
    code, stdout, stderr = run(*arguments, "--method", "sas", "--tau", 0.2, "--tau", 0.3, "--each-sae")
    assert code == 0, stderr
    header, original, *lines = (line.split() for line in stdout.splitlines())
    assert header[:5] == ["method", "sae_id", "tau", "strength", "entries"]
    assert original[:5] == ["original", "residual", "-", "-", "-"]
    lines = [line for line in lines if line[0] != "original"]
    found = {tuple(line[1:3]): int(line[4]) for line in lines}
    assert list(found) == [(sae, tau) for sae in ("residual", "heads") for tau in ("0.200", "0.300")]
    assert all((line[0] in ("sas", "sas/random")) and (line[3] == ("1.000" if int(line[4]) else "-")) for line in lines)
    code, _, stderr = run(*arguments, "--prompts", texts)
    assert code == 2 and "--prompts goes with --samples" in stderr
