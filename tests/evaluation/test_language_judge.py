"""A language model as a judge of texts: SLOR and PenLP by hand, token by token, under a model that did not write them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from atlas.errors import ModelError
from atlas.evaluation.language_judge import (
    LanguageJudge,
    Likelihood,
    load_language_judge,
    puts_bos_first,
    unigram_log_probabilities,
)
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer
from atlas.models.recorded import RecordedModels

PROMPTS = ["The doctor", "A boat on the open sea", "Rain", "She"]
TEXTS = [" gave the patient a new drug.", " sailed", " stopped the game at noon.", ""]


@pytest.fixture(scope="module")
def stranger(llama_folder):
    """A model that did not write the texts, and its tokenizer."""
    return load_transformer(str(llama_folder))


@pytest.fixture
def recorded(atlas_store):
    return RecordedModels(atlas_store)


def test_slor_and_penlp_are_those_worked_out_by_hand():
    """Six tokens of log-probability -2 each, which by frequency alone have -5 each."""
    found = Likelihood(given_prompt=-12.0, unordered=-30.0, tokens=6)
    assert found.slor == pytest.approx((-12 + 30) / 6)
    assert found.penlp == pytest.approx(-12 / 1.62403, rel=1e-5)  # (11 / 6) ** 0.8
    assert Likelihood(-2.0, -5.0, 1).penlp == pytest.approx(-2.0)  # a text of one token pays nothing for its length


def test_token_frequencies_are_those_worked_out_by_hand():
    """Counts 2, 1, 1, 0, 0: two of four tokens occur once, so that half of the chance is spread over all five."""
    found = np.exp(unigram_log_probabilities([[0, 0, 1], [], [2]], 5))
    assert found == pytest.approx([0.35, 0.225, 0.225, 0.1, 0.1])


@pytest.mark.parametrize("rows", [[[0, 0, 1, 1]], [[3]], [[]]], ids=["none occurs once", "one token", "no token"])
def test_every_token_has_some_chance_and_all_chances_add_up_to_1(rows):
    found = np.exp(unigram_log_probabilities(rows, 4))
    assert found.sum() == pytest.approx(1) and (found > 0).all()


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_a_text_is_read_token_by_token_after_its_prompt(stranger, prepend_bos):
    model, tokenizer = stranger
    unigrams = np.linspace(-9, -1, len(tokenizer))
    found = LanguageJudge("other", LoadedModel(model, tokenizer, prepend_bos), unigrams).read(PROMPTS, TEXTS)
    assert found[3] is None
    for prompt, text, one in zip(PROMPTS[:3], TEXTS, found, strict=False):
        before = [tokenizer.bos_token_id] * prepend_bos + tokenizer(prompt)["input_ids"]
        own, logs = tokenizer(text)["input_ids"], []
        for token in own:
            with torch.no_grad():
                logs.append(float(model(torch.tensor([before])).logits[0, -1].double().log_softmax(-1)[token]))
            before.append(token)
        assert one.tokens == len(own)
        assert one.given_prompt == pytest.approx(sum(logs), rel=1e-4)
        assert one.unordered == pytest.approx(sum(unigrams[token] for token in own))


def test_a_token_that_prompt_and_text_share_is_the_texts(stranger):
    """A word of one token, of which the prompt has all but the last letter."""
    model, tokenizer = stranger
    word = max(tokenizer.batch_decode([[i] for i in range(1, len(tokenizer))]), key=len)
    before, [token] = tokenizer("She")["input_ids"], tokenizer(word)["input_ids"]
    judge = LanguageJudge("other", LoadedModel(model, tokenizer, False), np.zeros(len(tokenizer)))
    [found] = judge.read(["She" + word[:-1]], [word[-1]])
    with torch.no_grad():
        chances = model(torch.tensor([before])).logits[0, -1].double().log_softmax(-1)
    assert found.tokens == 1 and found.given_prompt == pytest.approx(float(chances[token]), rel=1e-4)


def test_of_a_text_without_anything_before_it_the_first_token_does_not_count(stranger):
    model, tokenizer = stranger
    read = {
        bos: LanguageJudge("x", LoadedModel(model, tokenizer, bos), np.zeros(len(tokenizer))).read([""], TEXTS[:1])[0]
        for bos in (True, False)
    }
    assert read[True].tokens == read[False].tokens + 1


def test_a_text_counts_as_far_as_the_judge_can_read(stranger):
    model, tokenizer = stranger
    judge = LanguageJudge("x", LoadedModel(model, tokenizer, True), np.zeros(len(tokenizer)))
    [found] = judge.read(["Rain"], [" ".join(TEXTS[2] for _ in range(9))])
    assert found.tokens == tiny.CONTEXT - 1 - len(tokenizer("Rain")["input_ids"])


def test_texts_are_read_once_for_both_figures(stranger, monkeypatch):
    model, tokenizer = stranger
    judge = LanguageJudge("x", LoadedModel(model, tokenizer, True), np.zeros(len(tokenizer)))
    first = judge.read(PROMPTS, TEXTS)
    monkeypatch.setattr("atlas.evaluation.language_judge.log_probabilities", None)
    assert judge.read(list(PROMPTS), list(TEXTS)) is first
    with pytest.raises(TypeError):
        judge.read(PROMPTS, TEXTS[::-1])


def test_a_judge_takes_its_token_frequencies_from_the_reference_prompts(recorded, llama_folder, stranger):
    judge = load_language_judge(recorded, str(llama_folder))
    tokenizer = stranger[1]
    rows = tokenizer(list(tiny.PROMPTS))["input_ids"]
    assert np.array_equal(judge.unigrams, unigram_log_probabilities(rows, len(tokenizer)))
    full_stop, rare = (tokenizer(word)["input_ids"][-1] for word in (".", "Q"))
    assert judge.unigrams[full_stop] > judge.unigrams[rare] + 2


def test_a_judge_knows_whether_it_wrote_the_texts_wherever_it_lies(recorded, llama_folder, gpt2_folder, tmp_path):
    (tmp_path / "moved").symlink_to(gpt2_folder, target_is_directory=True)
    same, moved = (load_language_judge(recorded, str(name)) for name in (gpt2_folder, tmp_path / "moved"))
    assert same.is_author and moved.is_author and same.model.prepend_bos
    assert same.model.transformer is recorded.model[0], "a model that is loaded is not loaded again"
    other = load_language_judge(recorded, str(llama_folder))
    assert not other.is_author and other.describe() == {"model": str(llama_folder), "is_author": False}


def test_a_judge_that_is_not_there_is_said_in_one_line(recorded, tmp_path):
    with pytest.raises(ModelError, match="cannot load language model .*gone: there is no such folder"):
        load_language_judge(recorded, str(tmp_path / "gone"))


def test_a_stranger_begins_texts_as_its_tokenizer_does(stranger):
    assert not puts_bos_first(stranger[1])

    class BeginsWithBos:
        """A tokenizer as Llama's is."""

        bos_token_id = 1

        def __call__(self, text, add_special_tokens=True, **_):
            return {"input_ids": [1] * add_special_tokens + [len(text)]}

    assert puts_bos_first(BeginsWithBos())
