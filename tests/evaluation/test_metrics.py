"""The figures of generated text, against a loss computed one text at a time, distances and counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import atlas.models.likelihood
from atlas.evaluation.language_judge import LanguageJudge, unigram_log_probabilities
from atlas.evaluation.metrics import METRICS, MetricInputs, make_metric_inputs
from atlas.evaluation.nearest_topic import make_classifier
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer

PROMPTS = ["The doctor", "A boat on the open sea", "Rain", "She"]
TEXTS = [" gave the patient a new drug.", " sailed", " stopped the game at noon, and then the crowd went home.", ""]


@pytest.fixture(scope="module")
def tokenizer(language_model):
    return language_model.tokenizer


@pytest.fixture(scope="module")
def language(llama_folder):
    """A judge that did not write the texts."""
    model, tokenizer = load_transformer(str(llama_folder))
    unigrams = unigram_log_probabilities(tokenizer(list(tiny.PROMPTS))["input_ids"], len(tokenizer))
    return LanguageJudge("llama", LoadedModel(model, tokenizer, False), unigrams)


@pytest.fixture(scope="module", params=[True, False], ids=["BOS", "no BOS"])
def inputs(request, transformer, tokenizer, encoder, language):
    return MetricInputs(
        LoadedModel(transformer, tokenizer, request.param), encoder, encoder.embed(tiny.SEA), encoder.embed(tiny.MEDICINE), None,
        encoder.embed(tiny.PROMPTS[:4]), encoder.embed(tiny.PROMPTS[40:43]), language,
        make_classifier(encoder, "sea", tiny.PROMPTS[15:30], {"medicine": tiny.PROMPTS[:15], "food": tiny.PROMPTS[30:45]}),
    )  # fmt: skip


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def loss_by_hand(inputs, prompt, text):
    """Each generated token's probability after everything before it, one forward call per token."""
    before = [0] * inputs.model.prepend_bos + ids_of(inputs.model.tokenizer, prompt)
    logs = []
    for token in ids_of(inputs.model.tokenizer, text):
        if before:
            with torch.no_grad():
                logits = inputs.model.transformer(torch.tensor([before])).logits[0, -1].double()
            logs.append(float(logits.log_softmax(-1)[token]))
        before.append(token)
    return float(np.exp(-np.mean(logs)))


def test_perplexity_is_that_of_the_generated_tokens_one_text_at_a_time(inputs):
    found = METRICS["perplexity"].measure(inputs, PROMPTS, TEXTS)
    expected = [loss_by_hand(inputs, prompt, text) for prompt, text in zip(PROMPTS, TEXTS, strict=True) if text]
    assert found[:3] == pytest.approx(expected, rel=1e-3)
    assert found[3] is None


def test_perplexity_depends_on_the_prompt_and_not_on_its_own_loss(inputs):
    one, other = METRICS["perplexity"].measure(inputs, ["The doctor", "Rain"], [TEXTS[0]] * 2)
    assert one != pytest.approx(other, rel=1e-3)
    whole = loss_by_hand(inputs, "", "The doctor" + TEXTS[0])
    assert one != pytest.approx(whole, rel=1e-3)


def test_perplexity_in_small_batches_is_the_same(inputs, monkeypatch):
    whole = METRICS["perplexity"].measure(inputs, PROMPTS, TEXTS)
    monkeypatch.setattr(atlas.models.likelihood, "BATCH_SIZE", 1)
    assert METRICS["perplexity"].measure(inputs, PROMPTS[:3], TEXTS[:3]) == pytest.approx(whole[:3], rel=1e-3)


def test_perplexity_of_a_text_after_an_empty_prompt_leaves_the_first_token_out_where_nothing_stands_before_it(inputs):
    [found] = METRICS["perplexity"].measure(inputs, [""], [TEXTS[2]])
    assert found == pytest.approx(loss_by_hand(inputs, "", TEXTS[2]), rel=1e-3)


def test_perplexity_sees_a_text_as_far_as_the_context_reaches(inputs):
    long = " ".join([TEXTS[2]] * 4)
    ids = ids_of(inputs.model.tokenizer, long)
    head = len(ids_of(inputs.model.tokenizer, "Rain")) + inputs.model.prepend_bos
    assert len(ids) + head > tiny.CONTEXT
    cut = inputs.model.tokenizer.decode(ids[: tiny.CONTEXT - head])
    found = METRICS["perplexity"].measure(inputs, ["Rain"] * 2, [long, cut])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("distance_topic", tiny.SEA),
        ("distance_held_out", tiny.MEDICINE),
        ("distance_positive", tiny.PROMPTS[:4]),
        ("distance_negative", tiny.PROMPTS[40:43]),
    ],
)
def test_a_distance_is_that_to_the_nearest_text(inputs, encoder, name, texts):
    found = METRICS[name].measure(inputs, PROMPTS, [*TEXTS[:3], texts[1], " \n"])
    vectors, others = encoder.embed(TEXTS[:3]).astype(float), encoder.embed(texts).astype(float)
    expected = [min(float(np.sqrt(((v - o) ** 2).sum())) for o in others) for v in vectors]
    assert found[:3] == pytest.approx(expected, abs=1e-4)
    assert found[3] == pytest.approx(0, abs=1e-4)
    assert found[4] is None


def test_there_is_no_distance_where_there_is_nothing_to_be_near_to(inputs):
    bare = replace(inputs, topic=None, held_out=None, negative=None)
    for name in ("distance_topic", "distance_held_out", "distance_negative", "leaning"):
        assert METRICS[name].measure(bare, PROMPTS, TEXTS) == [None] * 4


def test_a_text_leans_to_the_side_whose_completions_are_nearer(inputs):
    shown, opposite, empty = METRICS["leaning"].measure(inputs, PROMPTS[:3], [tiny.PROMPTS[2], tiny.PROMPTS[41], " "])
    assert shown > 0.5 and opposite < -0.5 and empty is None
    far, near = (METRICS[f"distance_{side}"].measure(inputs, PROMPTS, TEXTS) for side in ("negative", "positive"))
    assert METRICS["leaning"].measure(inputs, PROMPTS, TEXTS)[:3] == [
        a - b for a, b in zip(far[:3], near[:3], strict=True)
    ]


def test_what_metrics_need_is_made_of_texts_and_lacks_what_it_is_not_given(inputs, encoder):
    made = make_metric_inputs(inputs.model, encoder, topic=tiny.SEA, positive=["Rain"])
    assert np.array_equal(made.topic, inputs.topic) and made.positive.shape == (1, inputs.topic.shape[1])
    assert made.held_out is made.negative is None


class Words:
    """A tokenizer whose tokens are the words."""

    def __call__(self, texts, **_):
        return {"input_ids": [[hash(word) for word in text.split()] for text in texts]}


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ("a b c d", 1, 1),
        ("a b a b a", 2 / 5, 2 / 4),
        ("a a a a", 1 / 4, 1 / 3),
        ("a", 1, None),
        ("", None, None),
    ],
)
def test_distinct_counts_different_runs_of_tokens(inputs, text, one, two):
    worded = replace(inputs, model=replace(inputs.model, tokenizer=Words()))
    assert METRICS["distinct_1"].measure(worded, [""], [text]) == [one]
    assert METRICS["distinct_2"].measure(worded, [""], [text]) == [two]


def test_distinct_looks_at_the_text_and_not_at_the_prompt(inputs):
    found = [METRICS["distinct_2"].measure(inputs, [prompt], [TEXTS[0]]) for prompt in ("Rain", TEXTS[0] * 2)]
    assert found[0] == found[1] != [None]


def test_acceptability_is_the_classifiers_and_none_without_one(inputs):
    assert inputs.acceptability is None
    assert METRICS["acceptability"].measure(inputs, PROMPTS, TEXTS) == [None] * 4
    judged = replace(inputs, acceptability=lambda texts: [len(text) / 100 for text in texts])
    found = METRICS["acceptability"].measure(judged, PROMPTS, TEXTS)
    assert found == [*(len(text) / 100 for text in TEXTS[:3]), None]


def test_slor_and_penlp_are_those_of_the_judging_model_and_none_without_one(inputs, language):
    found = language.read(PROMPTS, TEXTS)
    assert METRICS["slor"].measure(inputs, PROMPTS, TEXTS) == [*(one.slor for one in found[:3]), None]
    assert METRICS["penlp"].measure(inputs, PROMPTS, TEXTS) == [*(one.penlp for one in found[:3]), None]
    for name in ("slor", "penlp"):
        assert METRICS[name].measure(replace(inputs, language=None), PROMPTS, TEXTS) == [None] * 4


def test_english_is_more_acceptable_than_its_words_in_disorder_to_a_model_that_has_read_it():
    """Three words that always follow each other, under a judge that knows that they do."""

    class Chain(torch.nn.Module):
        config = type("Config", (), {"max_position_embeddings": 99})()
        device = torch.device("cpu")

        def forward(self, ids, **_):
            logits = torch.nn.functional.one_hot((ids + 1) % 3, 3) * 4.0
            return type("Output", (), {"logits": logits})()

    class Letters:
        all_special_ids = ()

        def __call__(self, texts, **_):
            return {"input_ids": [["abc".index(letter) for letter in text] for text in texts]}

    judge = LanguageJudge("chain", LoadedModel(Chain(), Letters(), False), np.log(np.full(3, 1 / 3)))
    ordered, disordered = judge.read(["a", "a"], ["bcabca", "cbacba"])
    certain = 4 - np.log(np.exp(4) + 2)
    assert ordered.slor == pytest.approx(certain + np.log(3)) and ordered.penlp == pytest.approx(
        6 * certain / (11 / 6) ** 0.8
    )
    assert disordered.slor < 0 < ordered.slor and disordered.penlp < ordered.penlp


def test_a_text_is_on_topic_where_the_topics_texts_are_nearest(inputs):
    texts = ["The boat left the harbour.", "The nurse gave him a pill.", "Salt and pepper in the soup.", " \n"]
    assert METRICS["on_topic"].measure(inputs, PROMPTS, texts) == [1.0, 0.0, 0.0, None]
    assert METRICS["on_topic"].measure(replace(inputs, classifier=None), PROMPTS, texts) == [None] * 4


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_a_finite_value_or_none_per_text_and_says_what_it_is(inputs, name):
    judged = replace(inputs, acceptability=lambda texts: [0.5] * len(texts))
    found = METRICS[name].measure(judged, PROMPTS, TEXTS)
    assert len(found) == 4 and found[3] is None
    assert all(value is not None and np.isfinite(value) for value in found[:3])
    assert METRICS[name].help and METRICS[name].better in ("low", "high")


@pytest.mark.parametrize("name", METRICS)
def test_a_text_is_measured_alike_whatever_stands_beside_it(inputs, name):
    judged = replace(inputs, acceptability=lambda texts: [float(len(text)) for text in texts])
    together = METRICS[name].measure(judged, PROMPTS, TEXTS)
    for prompt, text, value in zip(PROMPTS, TEXTS, together, strict=True):
        [alone] = METRICS[name].measure(judged, [prompt], [text])
        assert alone == (None if value is None else pytest.approx(value, rel=1e-3))


def test_a_text_that_has_no_embedding_or_no_likelihood_has_no_figure(inputs, monkeypatch):
    class Odd:
        """Gives one text NaN and one zeros, and must not be asked about empty ones."""

        def embed(self, texts):
            assert all(texts)
            return np.array([[np.nan, 1], [0, 0], [0.6, 0.8]], np.float32)[: len(texts)]

    odd = replace(inputs, encoder=Odd(), topic=np.array([[1.0, 0.0]]))
    found = METRICS["distance_topic"].measure(odd, PROMPTS, [" one", " two", " three", ""])
    assert found == [None, None, pytest.approx(np.sqrt(0.16 + 0.64)), None]
    assert METRICS["distance_topic"].measure(odd, PROMPTS[:1], [""]) == [None]
    plane = replace(inputs.classifier, vectors=np.array([[1.0, 0.0], [0.0, 1.0]]), labels=np.array([0, 1]))
    odd = replace(odd, classifier=replace(plane, topics=("sea", "medicine")))
    assert METRICS["on_topic"].measure(odd, PROMPTS, [" one", " two", " three", ""]) == [None, None, 0.0, None]
    monkeypatch.setattr(
        "atlas.evaluation.metrics.log_probabilities", lambda *_: [np.array([-np.inf]), np.array([-800.0, -700.0])]
    )
    assert METRICS["perplexity"].measure(inputs, PROMPTS[:2], TEXTS[:2]) == [None, None]
