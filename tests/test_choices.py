"""Two-choice evaluation: probabilities by hand, held-out pairs, controls and ablations, and what is stored."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from test_cli import run

import atlas
from atlas.choices import (
    ABLATIONS,
    PREFIX,
    ChoiceConfig,
    Trial,
    choose,
    evaluate_choices,
    perplexities,
)
from atlas.contrast import contrast
from atlas.errors import AtlasError, UnknownName
from atlas.evaluate import MethodSetting
from atlas.likelihood import log_probabilities
from atlas.methods import Options
from atlas.pairs import collect_pairs, split_pairs
from atlas.sides import tokenize_pairs
from atlas.steer import Steerer

LETTERS = collect_pairs([(f"{text}\n(A) yes\n(B) no", " (A)", " (B)") for text in ("Rain?", "The sea?")])
PAIRS = collect_pairs(
    [
        ("She", " took a pill.", " ate fish."),
        ("He", " had a fever.", " had a boat."),
        ("They", " gave a drug.", " won the race."),
        ("We", " saw the doctor.", " saw the sea."),
        ("I", " felt pain.", " felt wind."),
        ("You", " need rest.", " need salt."),
    ]
)
TEXTS = tiny.PROMPTS[40:44]
CONFIG = ChoiceConfig(strengths=(-2.0, 0.0, 2.0), tau=0.3, position="mean", sigma="none")


@pytest.fixture
def opened(atlas_file):
    return atlas.open(atlas_file)


@pytest.fixture
def tokenizer(language_model):
    return language_model.tokenizer


def ids_of(tokenizer, text):
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


@torch.no_grad()
def chances(model, ids):
    """Log-probability of each token given those before, the first left out."""
    logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def sides_of(tokenizer, pairs):
    return tokenize_pairs(tokenizer, pairs, prepend_bos=True, context=tiny.CONTEXT)


def test_lettered_answers_are_chosen_by_the_probability_of_the_letter(transformer, tokenizer):
    found = choose(transformer, tokenizer, sides_of(tokenizer, LETTERS))
    for value, (prompt, *_) in zip(found, LETTERS.rows(), strict=True):
        ids = ids_of(tokenizer, f"{prompt} (")
        with torch.no_grad():
            after = transformer(torch.tensor([ids])).logits[0, -1].softmax(-1)
        a, b = (float(after[tokenizer.convert_tokens_to_ids(letter)]) for letter in "AB")
        assert value == pytest.approx(a / (a + b), rel=1e-4)


def test_longer_completions_are_chosen_by_the_mean_over_the_tokens_that_differ(transformer, tokenizer):
    found = choose(transformer, tokenizer, sides_of(tokenizer, PAIRS))
    for value, (prompt, *texts) in zip(found, PAIRS.rows(), strict=True):
        ids = [ids_of(tokenizer, prompt + text) for text in texts]
        shared = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
        tail = next(i for i, (a, b) in enumerate(zip(*(row[::-1] for row in ids), strict=False)) if a != b)
        assert tail > 0, "all end in a full stop"
        means = [chances(transformer, row)[shared - 1 : len(row) - 1 - tail].mean() for row in ids]
        assert value == pytest.approx(np.exp(means[0]) / np.exp(means).sum(), rel=1e-4)


def test_swapping_the_sides_gives_the_other_probability(transformer, tokenizer):
    swapped = collect_pairs([(prompt, b, a) for prompt, a, b in PAIRS.rows()])
    found = [choose(transformer, tokenizer, sides_of(tokenizer, pairs)) for pairs in (PAIRS, swapped)]
    np.testing.assert_allclose(found[0] + found[1], 1)
    assert found[0].std() > 0.01


@pytest.mark.parametrize(
    ("positive", "negative"), [(" a pill", " a pill with care"), (" the drug", " a new drug"), (" a a", " a")]
)
def test_a_side_that_is_part_of_the_other_still_has_a_token_of_its_own(transformer, tokenizer, positive, negative):
    found = choose(transformer, tokenizer, sides_of(tokenizer, collect_pairs([("He took", positive, negative)])))
    assert 0 < found[0] < 1


def test_a_completion_with_nothing_before_it_is_refused(transformer, tokenizer):
    sides = tokenize_pairs(tokenizer, collect_pairs([("", "A", "B")]), prepend_bos=False, context=9)
    with pytest.raises(AtlasError, match="pair 1 has one token and nothing before it"):
        choose(transformer, tokenizer, sides)


def test_log_probabilities_do_not_depend_on_the_batch(transformer, tokenizer):
    rows = [ids_of(tokenizer, text) for text in tiny.PROMPTS[:20]]
    found = log_probabilities(transformer, tokenizer, rows, [(1, len(row)) for row in rows])
    for row, values in zip(rows, found, strict=True):
        np.testing.assert_allclose(values, chances(transformer, row), atol=1e-4)
    np.testing.assert_allclose(
        perplexities(transformer, tokenizer, rows), [np.exp(-values.mean()) for values in found], rtol=1e-6
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, built_atlas):
    """An evaluated copy of the atlas, and the frame."""
    path = tmp_path_factory.mktemp("choices") / "x.atlas"
    path.write_bytes(built_atlas.read_bytes())
    opened = atlas.open(path)
    config = ChoiceConfig(**{**vars(CONFIG), "ablations": True})
    return opened, evaluate_choices(
        opened, "medical", PAIRS, TEXTS, methods=("sas", "dense", "filtered"), config=config
    )


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
def test_the_shift_is_that_of_held_out_pairs_under_a_steered_model(evaluated, transformer, tokenizer, prefix, strength):
    opened, frame = evaluated
    _, held = split_pairs(PAIRS, 0.5)
    given = collect_pairs([(f"{p}\n\n{prefix}" if prefix else p, a, b) for p, a, b in held.rows()])
    sides = sides_of(tokenizer, given)
    plain = choose(transformer, tokenizer, sides)
    settings = {"method": "dense", "vector": "medical/choices", "strength": strength, "tokenizer": tokenizer}
    with opened.steer(transformer, None, **settings):
        steered = choose(transformer, tokenizer, sides)
    after = f" after '{prefix}'" if prefix else ""
    shift = figures(frame, "dense", strength, f"shift{after}")
    assert shift["value"] == pytest.approx((steered - plain).mean(), abs=1e-5)
    assert abs(shift["value"]) > 1e-4
    assert shift["low"] < shift["value"] < shift["high"]
    assert figures(frame, "dense", strength, f"probability{after}")["value"] == pytest.approx(steered.mean(), rel=1e-4)
    assert figures(frame, "original", None, f"probability{after}")["value"] == pytest.approx(plain.mean(), rel=1e-4)


def test_the_price_is_the_perplexity_of_the_unrelated_texts(evaluated, transformer, tokenizer):
    opened, frame = evaluated
    rows = [ids_of(tokenizer, text) for text in TEXTS]
    plain = perplexities(transformer, tokenizer, rows)
    settings = {"method": "dense", "vector": "medical/choices", "strength": 2.0, "tokenizer": tokenizer}
    with opened.steer(transformer, None, **settings):
        steered = perplexities(transformer, tokenizer, rows)
    assert figures(frame, "dense", 2.0, "perplexity")["value"] == pytest.approx(steered.mean(), rel=1e-4)
    assert figures(frame, "dense", 2.0, "perplexity ratio")["value"] == pytest.approx(
        (steered / plain).mean(), rel=1e-4
    )
    assert figures(frame, "original", None, "perplexity")["value"] == pytest.approx(plain.mean(), rel=1e-4)


def test_strength_0_shifts_nothing_whatever_the_method(evaluated):
    _, frame = evaluated
    still = frame.filter(pl.col("strength") == 0)
    assert still["method"].n_unique() == 9
    assert still.filter(pl.col("name").str.starts_with("shift"))["value"].abs().max() == 0
    assert still.filter(pl.col("name") == "perplexity ratio")["value"].unique().to_list() == [1.0]


def test_what_is_returned_is_what_is_stored(evaluated):
    opened, frame = evaluated
    stored = opened.sql(
        "select r.method, (r.parameters::json->'options'->>'strength')::double as strength, m.name, m.value, m.low, m.high "
        "from runs as r join metrics as m using (run_id) where r.topic = 'medical'"
    )
    keys = ["method", "strength", "name"]
    assert stored.sort(keys).equals(frame.sort(keys), null_equal=True)
    assert opened.sql("select count(distinct evaluation_id) as n from runs").item() == 1


def test_a_random_control_has_the_same_entries_elsewhere_and_parts_add_up(evaluated):
    opened, _ = evaluated
    _, held = split_pairs(PAIRS, 0.5)
    trial = Trial(opened, "medical/choices", held, TEXTS, CONFIG)
    [own] = trial.layers
    [random] = trial._layers(MethodSetting("sas", Options(), "random"))
    for name in ("sas", "difference"):
        before, after = getattr(own.target, name), getattr(random.target, name)
        assert not torch.equal(before, after)
        assert torch.equal(before.sort().values, after.sort().values)
    assert float(random.target.dense.norm()) == pytest.approx(float(own.target.dense.norm()), rel=1e-5)
    assert abs(float(torch.cosine_similarity(random.target.dense, own.target.dense, dim=0))) < 0.6
    parts = [trial._layers(MethodSetting("sas", Options(), f"{side} part")) for side in ("positive", "negative")]
    assert all(parts)
    torch.testing.assert_close(sum(part[0].target.sas for part in parts), own.target.sas)


def test_dropping_the_error_steers_otherwise(evaluated):
    _, frame = evaluated
    kept, dropped = (figures(frame, name, 2.0, "probability")["value"] for name in ("sas", "sas/error dropped"))
    assert kept != pytest.approx(dropped, abs=1e-5)


def test_an_evaluation_does_not_touch_the_vector_of_that_name_and_another_split_makes_its_own(opened):
    contrast(opened, "medical", PAIRS)
    before = opened.sql("select * from vectors where name = 'medical'").rows()
    for share, pairs in ((0.5, 3), (0.34, 4)):
        config = ChoiceConfig(strengths=(1.0,), tau=0.3, position="mean", held_out=share)
        evaluate_choices(opened, "medical", PAIRS, TEXTS, methods=["dense"], config=config)
        made = opened.sql("select distinct pairs from vectors where name = 'medical/choices'")
        assert made["pairs"].to_list() == [pairs]
    assert opened.sql("select * from vectors where name = 'medical'").rows() == before


def test_a_vector_that_is_there_is_tried_on_other_pairs_only(opened):
    made, held = split_pairs(PAIRS, 0.5)
    contrast(opened, "medical", made, tau=0.3)
    config = ChoiceConfig(strengths=(1.0,), held_out=1)
    frame = evaluate_choices(opened, "medical", held, TEXTS, methods=["dense"], config=config)
    assert figures(frame, "dense", 1.0, "shift")["value"] != 0
    assert opened.sql("select distinct name from vectors")["name"].to_list() == ["medical"]
    with pytest.raises(AtlasError, match="'medical' was made from 3 of these pairs: give others, or lower --held-out"):
        evaluate_choices(opened, "medical", PAIRS, TEXTS, config=config)


def test_what_cannot_be_evaluated_is_said(opened):
    with pytest.raises(UnknownName, match="unknown method that steers by a vector 'swap': known are"):
        evaluate_choices(opened, "medical", PAIRS, TEXTS, methods=["swap"])
    with pytest.raises(AtlasError, match="1 pairs are too few to hold out 0.5 of them"):
        evaluate_choices(opened, "medical", collect_pairs(PAIRS.rows()[:1]), TEXTS)
    with pytest.raises(AtlasError, match="held_out 0 is out of range"):
        ChoiceConfig(held_out=0)
    with pytest.raises(UnknownName, match="unknown vector 'medical'"):
        evaluate_choices(opened, "medical", PAIRS, TEXTS, config=ChoiceConfig(held_out=1))
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
        "method", "strength", "probability", "shift", "shift_low", "shift_high", "shift_prefixed", "perplexity",
        "perplexity_ratio",
    ]  # fmt: skip
    assert [line[:2] for line in lines[1:]] == [
        ["original", "-"], ["dense", "-1.000"], ["dense", "1.000"], ["dense/random", "-1.000"], ["dense/random", "1.000"],
    ]  # fmt: skip
    found = json.loads(run(*arguments, "--format", "json")[1])
    assert set(found[0]) == {"method", "strength", "name", "value", "low", "high"}
    assert Steerer(atlas.open(atlas_file).store).layers(None, vectors=["medical/choices"]).rows[0]["sae_key"] == 0
