"""Generation: batches, seeds and the random numbers of each text."""

from __future__ import annotations

from copy import deepcopy

import pytest
import tiny
import torch
from targets import make_target

from atlas.errors import AtlasError
from atlas.models.codec import Codec
from atlas.models.loaded import LoadedModel
from atlas.models.sampling import seeded_sampler
from atlas.models.tokens import special_ids
from atlas.steering.generation import Sampling, generate
from atlas.steering.intervention import Steering
from atlas.steering.methods import METHODS, SteeredSae

LAYERS = [SteeredSae("blocks.0.hook_resid_post", Codec(tiny.make_kind("topk")), make_target())]
PROMPTS = ["The doctor", "A boat on the open sea in the harbour", "Rain"]


def run(model, tokenizer, prompts, *, method="swap", seeds=None, **sampling):
    steering = Steering(model, LAYERS, method=method, keep_error=False, special_ids=special_ids(tokenizer))
    drawn = Sampling(**{"max_new_tokens": 6, **sampling})
    return generate(LoadedModel(model, tokenizer, True), prompts, steering, sampling=drawn, seeds=seeds)


@pytest.fixture
def tokenizer(language_model):
    return language_model.tokenizer


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_each_prompt_gives_alone(transformer, tokenizer, method, temperature):
    together = run(transformer, tokenizer, PROMPTS, method=method, seeds=[3, 1, 2], temperature=temperature)
    for prompt, seed, found in zip(PROMPTS, [3, 1, 2], together, strict=True):
        [alone] = run(transformer, tokenizer, [prompt], method=method, seeds=[seed], temperature=temperature)
        assert (found.prompt, found.text, found.seed) == (alone.prompt, alone.text, alone.seed)
        assert found.contamination == pytest.approx(alone.contamination, abs=1e-4)
        assert (found.kept, found.new, found.dropped) == pytest.approx((alone.kept, alone.new, alone.dropped), abs=0.01)


@pytest.mark.parametrize("pad", [5, 262])
def test_a_batch_in_which_texts_end_early_gives_what_each_prompt_gives_alone(transformer, tokenizer, pad, monkeypatch):
    """Also where the pad is a token like any other, and where a text ends at one."""
    tokenizer = deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    [text] = run(transformer, tokenizer, PROMPTS[:1], temperature=0, max_new_tokens=8)
    stop = tokenizer(text.text, add_special_tokens=False)["input_ids"][1]
    monkeypatch.setattr(transformer.generation_config, "eos_token_id", [0, stop])
    monkeypatch.setattr(transformer.generation_config, "num_beams", 2)
    together = run(transformer, tokenizer, PROMPTS, temperature=0, max_new_tokens=8)
    assert len({len(found.text) for found in together}) > 1
    for prompt, found in zip(PROMPTS, together, strict=True):
        [alone] = run(transformer, tokenizer, [prompt], temperature=0, max_new_tokens=8)
        assert found.text == alone.text
        assert (found.contamination, found.kept, found.new, found.dropped) == pytest.approx(
            (alone.contamination, alone.kept, alone.new, alone.dropped), abs=1e-4
        )


def test_the_seed_decides_and_the_callers_random_state_stays(transformer, tokenizer):
    before = torch.random.get_rng_state()
    first, again, other = run(transformer, tokenizer, ["The doctor"] * 3, seeds=[1, 1, 2], top_k=0)
    assert first.text == again.text != other.text
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_samples_from_the_softmax_within_top_k_and_top_p():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    count = 4000
    ids = torch.zeros(count, 1, dtype=torch.long)
    for top_k, top_p, kept in ((0, 1.0, [0, 1, 2, 3]), (2, 1.0, [2, 3]), (0, 0.5, [3])):
        process = seeded_sampler(range(count), 0.5, top_k, top_p)
        drawn = process(ids, logits.expand(count, -1)).argmax(-1)
        share = torch.bincount(drawn, minlength=4) / count
        expected = torch.zeros(4)
        expected[kept] = (logits[0, kept] / 0.5).softmax(-1)
        torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ("", {}, "has no token: give some text"),
        ("The doctor", {"max_new_tokens": 1000}, "do not fit into the context of"),
    ],
)
def test_what_cannot_be_continued_is_refused(transformer, tokenizer, prompt, sampling, message):
    if not prompt:
        tokenizer = type(
            "Silent", (), {"bos_token_id": None, "eos_token_id": 0, "__call__": lambda *a, **k: {"input_ids": [[]]}}
        )()
        with pytest.raises(AtlasError, match=message):
            generate(
                LoadedModel(transformer, tokenizer, False),
                [""],
                Steering(transformer, [], method="original"),
                sampling=Sampling(),
            )
        return
    with pytest.raises(AtlasError, match=message):
        run(transformer, tokenizer, [prompt], **sampling)
