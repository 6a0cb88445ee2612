"""Contrast pairs in a chat template: what a user says and what the model answers, for vectors as for the trials of them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
from command import run

import atlas
from atlas.contrast.make_vectors import make_vectors
from atlas.contrast.pair_tokens import tokenize_pairs, wrap_pairs
from atlas.errors import AtlasError, StoreError
from atlas.evaluation.choice_trial import PREFIX, ChoiceConfig, ChoiceSet, choose
from atlas.evaluation.choices import evaluate_choices
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.texts.pairs import collect_pairs, split_pairs

END = tiny.END
TEMPLATE = (
    "{% for message in messages %}{{ '<|endoftext|>' + message['role'][0] + '\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|endoftext|>me\n' }}{% endif %}"
)
PAIRS = collect_pairs(
    [
        ("She", " took a pill.", " ate fish."),
        ("He", "had a fever.", "had a boat."),
        ("They", " gave a drug.", " won the race."),
        ("We", " saw the doctor.", " saw the sea."),
        ("I", " felt pain.", " felt wind."),
        ("You", " need rest.", " need salt."),
    ]
)
CONFIG = ChoiceConfig(
    strengths=(2.0,), taus=(0.3,), position="mean", sigma="none", sampling=Sampling(max_new_tokens=3), chat=True
)


@pytest.fixture
def tokenizer(language_model):
    """The tiny model's tokenizer, with a template."""
    found = copy.deepcopy(language_model.tokenizer)
    found.chat_template = TEMPLATE
    return found


@pytest.fixture
def chats(atlas_store, transformer, tokenizer):
    """The atlas's models, the language model being a chat model."""
    return RecordedModels(atlas_store, loaded=(transformer, tokenizer))


def by_hand(pairs):
    return collect_pairs([(f"{END}u\n{p}{END}me\n", a.lstrip(), b.lstrip()) for p, a, b in pairs.rows()])


def rows(store, statement):
    return atlas.open(store.path).sql(statement).rows()


def codes(store):
    return rows(store, "select pair_id, side, neuron, value from pair_codes order by all")


def test_a_pair_is_a_message_and_two_answers_that_begin_where_the_template_ends(tokenizer):
    assert wrap_pairs(tokenizer, PAIRS).rows() == by_hand(PAIRS).rows()
    found = wrap_pairs(tokenizer, PAIRS, system="Go.")
    assert found.prompts[0] == f"{END}s\nGo.{END}u\nShe{END}me\n"


def test_a_template_that_ends_in_a_word_keeps_the_space_of_the_answer(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }} [answer]"
    assert wrap_pairs(tokenizer, PAIRS).rows()[0] == ("She [answer]", " took a pill.", " ate fish.")


def test_a_pair_without_a_prompt_and_a_model_without_a_template_are_refused(tokenizer, language_model):
    with pytest.raises(AtlasError, match="pair 2 has no prompt, and a chat begins with one"):
        wrap_pairs(tokenizer, collect_pairs([("She", "a", "b"), (" ", "c", "d")]))
    with pytest.raises(AtlasError, match="the model's tokenizer has no chat template"):
        wrap_pairs(language_model.tokenizer, PAIRS)


def test_vectors_of_a_chat_are_those_of_the_pairs_written_in_the_template(atlas_store, chats):
    make_vectors(atlas_store, "b", by_hand(PAIRS), position="mean", recorded=chats)
    expected = codes(atlas_store)
    make_vectors(atlas_store, "b", PAIRS, position="mean", replace=True, recorded=chats)
    assert codes(atlas_store) != expected
    with pytest.raises(StoreError, match="vector 'b' has 6 other pairs already"):
        make_vectors(atlas_store, "b", PAIRS, position="mean", chat=True, recorded=chats)
    make_vectors(atlas_store, "b", PAIRS, position="mean", chat=True, replace=True, recorded=chats)
    assert codes(atlas_store) == expected
    with atlas_store.read() as session:
        assert session.ask("behaviour_pairs", behaviour="b").rows() == by_hand(PAIRS).rows(), "as they were read"


def test_choices_are_made_between_answers_and_the_prefix_begins_one(atlas_store, chats, transformer, tokenizer):
    data = ChoiceSet(PAIRS, tiny.PROMPTS[40:43], PAIRS)
    frame = evaluate_choices(atlas_store, "b", data, methods=("dense",), config=CONFIG, recorded=chats)
    made, tried = split_pairs(PAIRS, 0.5)
    with atlas_store.read() as session:
        assert session.ask("behaviour_pairs", behaviour="b/choices").rows() == by_hand(made).rows()
    [(stored,)] = rows(atlas_store, "select parameters from runs where method = 'original'")
    assert json.loads(stored)["chat"] is True
    shown = by_hand(tried)
    prefixed = replace(shown, prompts=tuple(prompt + PREFIX for prompt in shown.prompts))
    model = LoadedModel(transformer, tokenizer, True)
    for name, pairs in (("probability", shown), ("probability after 'The answer is'", prefixed)):
        sides = tokenize_pairs(tokenizer, pairs, prepend_bos=True, context=tiny.CONTEXT)
        [found] = frame.filter((frame["method"] == "original") & (frame["name"] == name))["value"]
        assert found == pytest.approx(np.mean(choose(model, sides)), rel=1e-5)


def test_text_is_generated_as_answers_and_stored_without_the_template(atlas_store, chats, encoder):
    config = replace(CONFIG, samples=1, sampling=Sampling(max_new_tokens=3))
    data = ChoiceSet(PAIRS, tiny.PROMPTS[40:43])
    evaluate_choices(atlas_store, "b", data, methods=("dense",), config=config, recorded=chats, encoder=encoder)
    _, tried = split_pairs(PAIRS, 0.5)
    assert {prompt for (prompt,) in rows(atlas_store, "select prompt from generations")} == set(tried.prompts)


def test_a_vector_is_not_tried_on_the_chats_that_it_was_made_from(atlas_store, chats):
    make_vectors(atlas_store, "b", PAIRS, position="mean", chat=True, recorded=chats)
    config = replace(CONFIG, held_out=1.0)
    with pytest.raises(AtlasError, match="vector 'b' was made from 6 of these pairs"):
        evaluate_choices(atlas_store, "b", ChoiceSet(PAIRS, tiny.PROMPTS[:3]), config=config, recorded=chats)


def test_a_system_message_needs_a_chat(atlas_store, chats):
    with pytest.raises(AtlasError, match="a system message is part of a chat: give --chat too"):
        make_vectors(atlas_store, "b", PAIRS, system="Go.", recorded=chats)
    with pytest.raises(AtlasError, match="a system message is part of a chat"):
        replace(CONFIG, chat=False, system="Go.")


def test_the_commands_say_what_a_chat_lacks(atlas_file, tmp_path):
    path = tmp_path / "b.jsonl"
    path.write_text(
        "\n".join(json.dumps(dict(zip(("prompt", "positive", "negative"), row, strict=True))) for row in PAIRS.rows())
    )
    for command in (("contrast",), ("choices", "--strength", 1)):
        code, _, stderr = run(command[0], atlas_file, "b", path, *command[1:], "--chat")
        assert code == 1 and "the model's tokenizer has no chat template" in stderr and stderr.count("\n") <= 3
        code, _, stderr = run(command[0], atlas_file, "b", path, *command[1:], "--system", "Go.")
        assert code == 1 and "give --chat too" in stderr
    code, _, stderr = run("contrast", atlas_file, "b", "--topic", "sea", "--chat")
    assert code == 2 and "--chat goes with PAIRS" in stderr
    assert "b" not in atlas.open(atlas_file).sql("select distinct name from vectors")["name"].to_list()
