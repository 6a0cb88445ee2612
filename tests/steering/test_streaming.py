"""A text that is streamed is the one that is generated, and its tokens say what they are."""

from __future__ import annotations

import json

import pytest
from command import run

import atlas
from atlas.errors import AtlasError, UnknownName
from atlas.steering.generation import Sampling, generate
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options
from atlas.steering.streaming import stream

PROMPT, SAMPLING = "The doctor", Sampling(12, temperature=1.0, top_k=5, seed=3)


def prepare(recorded, topic, options, **settings):
    return prepare_steering(recorded, topic, options, **settings)


def go_on(prepared, method, stopped=lambda: False):
    shown = []
    found = stream(
        prepared.model,
        PROMPT,
        prepared.steering(method),
        sampling=SAMPLING,
        show=lambda tokens: shown.append(list(tokens)),
        stopped=stopped,
    )
    return found, shown


@pytest.mark.parametrize("method", ["original", "add", "clamp", "swap"])
def test_the_streamed_text_and_its_figures_are_those_of_generate(recorded, method):
    own = Options() if method in ("original", "swap") else Options(0.5)
    prepared = prepare(recorded, "medicine", {method: own})
    (whole,) = generate(prepared.model, [PROMPT], prepared.steering(method), sampling=SAMPLING)
    found, shown = go_on(prepared, method)
    assert found.generation.text == whole.text == "".join(token.text for token in found.tokens)
    assert found.generation.contamination == whole.contamination
    assert not found.stopped
    assert [len(tokens) for tokens in shown] == [*range(len(found.tokens)), len(found.tokens)]


def test_a_text_steered_with_strength_0_is_the_unsteered_one_byte_for_byte(recorded):
    prepared = prepare(recorded, "medicine", {"original": Options(), "add": Options(0.0)})
    texts = [go_on(prepared, method)[0].generation.text.encode() for method in ("original", "add")]
    assert texts[0] == texts[1]


def test_the_tokens_contamination_averages_to_that_of_the_text(recorded):
    prepared = prepare(recorded, "medicine", {"add": Options(0.5)})
    with prepared.steering("add") as steering:
        ids = steering.encode(PROMPT)
        prepared.model.transformer.generate(**ids, max_new_tokens=8, do_sample=False)
    (row,) = steering.token_contamination()
    known = [value for value in row if value is not None]
    assert len(row) == ids["input_ids"].shape[1] + 7  # the last one is never read
    assert row[0] is None  # BOS
    assert steering.contamination()[0] == pytest.approx(sum(known) / len(known), abs=1e-12)
    found, _ = go_on(prepared, "add")
    assert all(0 <= token.contamination <= 1 for token in found.tokens[:-1])
    assert found.tokens[-1].contamination is None


def test_a_token_stands_among_its_alternatives_as_likely_as_it_was(recorded):
    prepared = prepare(recorded, "medicine", {"original": Options()})
    found, _ = go_on(prepared, "original")
    for token in found.tokens:
        chances = [chance for _, chance in token.alternatives]
        assert chances == sorted(chances, reverse=True)
        assert token.probability in chances  # top_k is 5
        assert sum(chances) <= 1 + 1e-6


def test_a_text_can_be_stopped_and_keeps_what_was_there(recorded):
    prepared = prepare(recorded, "medicine", {"original": Options()})
    whole, _ = go_on(prepared, "original")
    asked = iter([False, False, False, True])
    found, _ = go_on(prepared, "original", stopped=lambda: next(asked))
    assert found.stopped
    assert len(found.tokens) == 3
    assert whole.generation.text.startswith(found.generation.text)


def test_chosen_neurons_steer_in_a_topics_stead(recorded):
    clamped = prepare(recorded, None, {"clamp": Options(3.0)}, chosen={0: [5, 2]})
    target = clamped.saes[0].target
    assert clamped.options["clamp"].neurons == 2
    assert target.best[:2].tolist() == [5, 2]
    assert sorted(target.best.tolist()) == list(range(24))
    assert target.scores.nonzero().squeeze(-1).tolist() == [2, 5]
    with clamped.steering("clamp") as steering:
        clamped.model.transformer(**steering.encode(PROMPT))
    assert 0 <= steering.contamination()[0] < 1  # of all that is active, the two are a part
    with pytest.raises(UnknownName, match="unknown neuron '24': known are 0 to 23"):
        prepare(recorded, None, {"add": Options()}, chosen={0: [24]})
    with pytest.raises(AtlasError, match="either topic 'medicine' or neurons of your choice"):
        prepare(recorded, "medicine", {"add": Options()}, chosen={0: [5]})


def test_the_command_steers_by_chosen_neurons_and_keeps_them_with_the_text(recorded):
    path = recorded.store.path
    words = ("steer", path, "-", PROMPT, "--neuron", "5", "--neuron", "2", "--strength", "0.5", "--format", "json")
    code, out, err = run(*words, "--sae-id", "residual", "--max-new-tokens", "5")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["method"] for row in rows] == ["original", "add"]
    assert rows[1]["contamination"] is not None
    (kept,) = atlas.open(path).sql("select parameters from generations where method = 'add'")["parameters"]
    assert json.loads(kept)["chosen"] == {"0": [5, 2]}
    assert "to choose from" in run(*words)[2]
    assert "one SAE, and 2 are given" in run(*words, "--sae-id", "0", "--sae-id", "1")[2]


def test_python_steers_by_chosen_neurons(recorded):
    opened = atlas.open(recorded.store.path)
    model, tokenizer = recorded.model
    with opened.steer(model, None, chosen=[5], sae_id=0, strength=0.5, tokenizer=tokenizer) as steering:
        model(**steering.encode(PROMPT))
    assert steering.saes[0].target.best[0] == 5
    assert steering.options.neurons == 1
