"""What an SAE and a method do on texts, against the build's own encoding and against token by token arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from targets import make_target

import atlas.evaluation.layer_level
from atlas.evaluation.layer_level import activity, layer_figures
from atlas.models.activations import encode_entries, run_model, summarise, tokenize
from atlas.models.codec import Codec
from atlas.models.hooks import hook_activations
from atlas.models.loaded import LoadedModel
from atlas.models.saes import load_sae
from atlas.steering.methods import METHODS, SteeredSae, settle_options
from atlas.steering.settings import Options

TEXTS = ["Rain.", "The crowd <|endoftext|> cheered for the home team.", "The ferry was late again.", "Fish"]
WITH_FIGURES = [name for name, method in METHODS.items() if method.has_code and method.vector is None]


@pytest.fixture(scope="module")
def tokenizer(language_model):
    return language_model.tokenizer


def make_steered_sae(kind="topk", hook_name="blocks.0.hook_resid_post", **settings):
    return SteeredSae(hook_name, Codec(tiny.make_kind(kind, hook_name=hook_name, **settings)), make_target())


def token_codes(model, tokenizer, sae, text, *, prepend_bos=True):
    """The residual stream after the first block and its code at the tokens that count [token, ...]; one text alone."""
    ids = [0] * prepend_bos + tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1]
    keep = torch.tensor([token not in tokenizer.all_special_ids for token in ids])
    return hidden[:, keep], sae.codec.encode(hidden[:, keep]).acts[0]


@pytest.mark.parametrize("name", ["residual", "heads", "later"])
def test_activity_is_what_a_build_would_store_per_token(transformer, language_model, tokenizer, sae_folder, name):
    sae = load_sae(str(sae_folder), name)
    ids, _ = tokenize(language_model, TEXTS, prepend_bos=sae.prepend_bos)
    special = frozenset(tokenizer.all_special_ids)
    entries = encode_entries(sae, run_model(language_model, ids, [sae.hook_name])[sae.hook_name], ids, special)
    rows, _ = summarise(entries, np.arange(len(TEXTS)), sae.codec.d_sae)
    expected = np.zeros((len(TEXTS), sae.codec.d_sae))
    expected[rows["prompt_id"], rows["neuron"]] = rows["act_sum"]
    expected /= [[sum(token not in special for token in row)] for row in ids]
    steered = SteeredSae(sae.hook_name, sae.codec, make_target(sae.codec.d_sae))
    found = activity(LoadedModel(transformer, tokenizer, sae.prepend_bos), steered, TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)
    assert (found > 0).any(axis=1).all()


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("prepend_bos", [True, False])
def test_activity_is_the_mean_over_the_tokens_that_count(transformer, tokenizer, kind, prepend_bos):
    sae = make_steered_sae(kind)
    found = activity(LoadedModel(transformer, tokenizer, prepend_bos), sae, TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        _, acts = token_codes(transformer, tokenizer, sae, text, prepend_bos=prepend_bos)
        np.testing.assert_allclose(row, acts.abs().mean(0), atol=1e-4, rtol=1e-3)


def test_special_tokens_and_padding_are_left_out(transformer, tokenizer):
    seen = list(hook_activations(LoadedModel(transformer, tokenizer, True), TEXTS, ["blocks.0.hook_resid_post"]))
    [(caught, counts)] = seen
    x = caught["blocks.0.hook_resid_post"]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    assert x.shape[:2] == counts.shape == (len(TEXTS), max(lengths) + 1)
    assert counts.sum(1).tolist() == [n - text.count("<|endoftext|>") for n, text in zip(lengths, TEXTS, strict=True)]
    assert not counts[:, 0].any()
    none = activity(LoadedModel(transformer, tokenizer, True), make_steered_sae(), ["<|endoftext|>", "Rain."])
    assert (none[0] == 0).all() and (none[1] > 0).any()


def test_batches_do_not_change_what_is_found(transformer, tokenizer, monkeypatch):
    sae = make_steered_sae("jumprelu")
    swap = settle_options("swap", Options())
    found = []
    for size in (32, 2):
        monkeypatch.setattr(atlas.models.hooks, "BATCH_SIZE", size)
        figures = layer_figures(LoadedModel(transformer, tokenizer, True), sae, TEXTS, "swap", swap)
        found.append((activity(LoadedModel(transformer, tokenizer, True), sae, TEXTS), figures.contamination))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_no_hook_is_left_behind_even_when_the_model_fails(transformer, tokenizer, monkeypatch):
    def hooks():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in transformer.modules()]

    sae = make_steered_sae()
    activity(LoadedModel(transformer, tokenizer, True), sae, TEXTS)
    before = hooks()
    activity(LoadedModel(transformer, tokenizer, True), sae, TEXTS)
    assert hooks() == before
    monkeypatch.setattr(transformer.transformer.h[0], "forward", None)
    with pytest.raises(TypeError):
        activity(LoadedModel(transformer, tokenizer, True), sae, TEXTS)
    assert hooks() == before


def test_a_text_longer_than_the_context_is_cut(transformer, tokenizer):
    sae = make_steered_sae()
    long = "The ferry was late again. " * 10
    whole = tokenizer(long, add_special_tokens=False)["input_ids"]
    assert len(whole) > tiny.CONTEXT
    cut = tokenizer.decode(whole[: tiny.CONTEXT - 1])
    found = activity(LoadedModel(transformer, tokenizer, True), sae, [long, cut])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def figures_by_hand(sae, hidden, method, options):
    """Changed neurons, difference in reconstruction error and contamination per token, each token on its own."""
    rows = []
    for token in range(hidden.shape[1]):
        x = hidden[:, token : token + 1]
        edit = METHODS[method].edit(sae.codec, x, sae.target, options)
        own, acts = edit.code, edit.acts

        def error(values, x=x, own=own):
            return float(((sae.codec.decode(values, own, x).double() - x.double()) ** 2).sum())

        scores, size = own.pick(sae.target.scores).tolist(), acts.flatten().abs().tolist()
        impure = sum(a * (1 - s) for a, s in zip(size, scores, strict=True)) / sum(size) if sum(size) else np.nan
        rows.append((int((acts != own.acts).sum()), error(acts) - error(own.acts), impure))
    return np.array(rows).T


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "standard", "abstopk-rescaled"])
@pytest.mark.parametrize("method", WITH_FIGURES)
def test_the_figures_of_a_method_are_those_of_its_tokens(transformer, tokenizer, kind, method):
    sae, options = make_steered_sae(kind, normalize_activations="layer_norm"), settle_options(method, Options())
    found = layer_figures(LoadedModel(transformer, tokenizer, True), sae, TEXTS, method, options)
    for i, text in enumerate(TEXTS):
        hidden, _ = token_codes(transformer, tokenizer, sae, text)
        changed, error, impure = figures_by_hand(sae, hidden, method, options)
        assert found.changed[i] == pytest.approx(changed.mean())
        assert found.changed_deviation[i] == pytest.approx(changed.std(), abs=1e-6)
        assert found.reconstruction[i] == pytest.approx(error.mean(), rel=2e-3, abs=2e-2)
        assert found.contamination[i] == pytest.approx(np.nanmean(impure), rel=1e-3)


def test_a_sae_alone_changes_nothing_and_adds_no_error(transformer, tokenizer):
    options = settle_options("sae", Options())
    found = layer_figures(LoadedModel(transformer, tokenizer, True), make_steered_sae(), TEXTS, "sae", options)
    assert not found.changed.any() and not found.reconstruction.any() and not found.changed_deviation.any()
    assert ((found.contamination > 0) & (found.contamination < 1)).all()


def test_clamp_changes_as_many_neurons_on_every_token_and_swap_does_not(transformer, tokenizer):
    deviation = {}
    for method in ("clamp", "clamp-plus", "swap"):
        options = settle_options(method, Options())
        found = layer_figures(
            LoadedModel(transformer, tokenizer, True), make_steered_sae(), TEXTS[1:3], method, options
        )
        deviation[method] = found.changed_deviation
        assert (found.changed > 0).all()
    assert not deviation["clamp"].any() and not deviation["clamp-plus"].any()
    assert deviation["swap"].all()


def test_contamination_runs_from_0_for_scores_of_1_to_1_for_scores_of_0(transformer, tokenizer):
    for value in (0.0, 1.0):
        sae = make_steered_sae()
        sae.target.scores.fill_(value)
        options = settle_options("sae", Options())
        found = layer_figures(LoadedModel(transformer, tokenizer, True), sae, TEXTS, "sae", options)
        np.testing.assert_allclose(found.contamination, 1 - value, atol=1e-6)


def test_a_text_in_which_nothing_fires_has_no_contamination(transformer, tokenizer):
    sae = make_steered_sae("standard")
    sae.codec.sae.b_enc.data.fill_(-1e4)
    options = settle_options("sae", Options())
    found = layer_figures(LoadedModel(transformer, tokenizer, True), sae, TEXTS, "sae", options)
    assert np.isnan(found.contamination).all() and not found.changed.any()


@pytest.mark.parametrize("texts", [["<|endoftext|>", "Rain."]])
def test_a_text_of_special_tokens_alone_gives_no_figure(transformer, tokenizer, texts):
    options = settle_options("swap", Options())
    found = layer_figures(LoadedModel(transformer, tokenizer, True), make_steered_sae(), texts, "swap", options)
    assert len(found.changed) == len(found.contamination) == 1
