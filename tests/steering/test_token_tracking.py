"""Every way of calling a steered model gives the text and the figures of each text alone, without a KV cache."""

from __future__ import annotations

import itertools
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache, TextStreamer
from uncached import (
    NEW,
    PROMPT,
    PROMPTS,
    SIMPLE,
    SPECIAL,
    assert_figures,
    figures_of,
    make_model,
    make_steered_sae,
    meant_places,
    plain,
    plain_figures,
    plain_text,
    steered_forward,
)

from atlas.errors import AtlasError
from atlas.steering.intervention import Steering


@pytest.fixture(scope="module")
def models():
    return {kind: make_model(kind) for kind in ("gpt2", "mistral", "gemma2")}


@pytest.fixture(scope="module")
def sae():
    return make_steered_sae()


# ways of generating one text


def settings(**more):
    return {"max_new_tokens": NEW, "do_sample": False, **more}


def by_generate(**more):
    def way(model, ids):
        asked = {name: value(model) if callable(value) else value for name, value in more.items()}
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **settings(**asked))
        return getattr(out, "sequences", out)[0]

    return way


def from_embeddings(**more):
    def way(model, ids):
        embedded = model.get_input_embeddings()(torch.tensor([ids]))
        new = model.generate(inputs_embeds=embedded, attention_mask=torch.ones(1, len(ids)), **settings(**more))[0]
        return torch.cat([torch.tensor(ids), new])

    return way


def by_hand(cache=None, *, use_cache=True, tuples=False):
    def way(model, ids):
        ids, past = torch.tensor([ids]), cache(model) if cache else None
        given = ids
        for _ in range(NEW):
            arguments = {"return_dict": not tuples, "use_cache": use_cache}
            with torch.no_grad():
                out = model(given, **arguments, **({"past_key_values": past} if past is not None else {}))
            logits = out[0] if tuples else out.logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            if use_cache:
                past = past if past is not None else next(v for v in out.values() if hasattr(v, "get_seq_length"))
            given = ids[:, -1:] if use_cache else ids
        return ids[0]

    return way


def compiled(model, ids):
    fast: Any = torch.compile(model, backend="eager")
    return fast.generate(torch.tensor([ids]), **settings())[0]


def within_inference_mode(model, ids):
    with torch.inference_mode():
        return model.generate(torch.tensor([ids]), **settings())[0].clone()


def static(model):
    return StaticCache(config=model.config, max_cache_len=32)


def growing(model):
    return DynamicCache(config=model.config)


class Silent:
    def decode(self, ids, **more):
        return ""


def turns(model, ids):
    """A chat whose second turn goes on from the cache of the first."""
    cache = DynamicCache(config=model.config)
    first = model.generate(torch.tensor([ids]), past_key_values=cache, **settings(max_new_tokens=3))
    return model.generate(first, past_key_values=cache, **settings(max_new_tokens=NEW - 3))[0]


WAYS = {
    "a cache": by_generate(),
    "no cache": by_generate(use_cache=False),
    "a static cache": by_generate(cache_implementation="static"),
    "a static cache of one's own": by_generate(past_key_values=static),
    "a growing cache of one's own": by_generate(past_key_values=growing),
    "the prompt in chunks": by_generate(prefill_chunk_size=3),
    "prompt lookup": by_generate(prompt_lookup_num_tokens=3, max_matching_ngram_size=1),
    "a drafting model": by_generate(assistant_model=lambda model: deepcopy(model)),
    "a bad drafting model": by_generate(assistant_model=lambda model: make_model("gpt2", seed=5)),
    "drafting by its own first layers": by_generate(assistant_early_exit=2),
    "a streamer": by_generate(streamer=lambda model: TextStreamer(Silent())),
    "the result as a record": by_generate(return_dict_in_generate=True),
    "embeddings": from_embeddings(),
    "embeddings without a cache": from_embeddings(use_cache=False),
    "inference mode": within_inference_mode,
    "a compiled model": compiled,
    "a loop with a cache": by_hand(),
    "a loop with a growing cache": by_hand(growing),
    "a loop with a static cache": by_hand(static),
    "a loop with tuples": by_hand(growing, tuples=True),
    "a loop without a cache": by_hand(use_cache=False),
}


def run(model, sae, way, *, method="swap", positions="all", ids=PROMPT):
    with Steering(
        model, [sae], method=method, keep_error=False, positions=positions, special_ids=[SPECIAL]
    ) as steering:
        out = way(model, ids)
    return out.tolist(), steering


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2"])
def test_text_and_figures_are_those_of_the_plain_way(models, sae, kind, way):
    if (kind, way) == ("gpt2", "drafting by its own first layers"):
        pytest.skip("Transformers' GPT-2 cannot")
    model = models[kind]
    for method, positions in itertools.product(SIMPLE, ("all", "prompt", "generated")):
        ids, expected = plain(kind, method, positions)
        found, steering = run(model, sae, WAYS[way], method=method, positions=positions)
        assert found == ids, (method, positions)
        assert_figures(figures_of(steering), [expected])


# batches, beams, several sequences


def pad_rows(side, pad):
    longest = max(map(len, PROMPTS))
    ids, mask = [], []
    for row in PROMPTS:
        fill = [pad] * (longest - len(row))
        ids.append(fill + row if side == "left" else row + fill)
        own = [1] * len(row)
        mask.append([0] * len(fill) + own if side == "left" else own + [0] * len(fill))
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("pad", [5, 41, SPECIAL])
@pytest.mark.parametrize(
    "more", [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 3}]
)
def test_a_padded_batch_gives_the_text_and_figures_of_each_alone(models, sae, more, pad):
    ids, mask = pad_rows("left", pad)
    for method, positions in (("swap", "all"), ("swap", "prompt"), ("add", "generated")):
        with Steering(
            models["mistral"], [sae], method=method, keep_error=False, positions=positions, special_ids=[SPECIAL]
        ) as steering:
            out = models["mistral"].generate(ids, attention_mask=mask, **settings(pad_token_id=pad, **more))
        texts = [plain_text(models["mistral"], sae, method, positions, one) for one in PROMPTS]
        assert [row[-NEW:] for row in out.tolist()] == [text[-NEW:] for text in texts]
        assert_figures(
            figures_of(steering),
            [
                plain_figures(models["mistral"], sae, method, positions, text, len(one))
                for one, text in zip(PROMPTS, texts, strict=True)
            ],
        )


@pytest.mark.parametrize("by", ["eos", "criterion"])
@pytest.mark.parametrize("sides", [1, 2])
def test_what_a_row_is_given_after_its_end_counts_nowhere(models, sae, by, sides):
    model = models["mistral"]
    texts = [plain_text(model, sae, "swap", "all", one) for one in PROMPTS]
    stop = texts[0][len(PROMPTS[0]) + 2]
    texts = [plain_text(model, sae, "swap", "all", one, stop=stop) for one in PROMPTS]
    assert len({len(text) - len(one) for one, text in zip(PROMPTS, texts, strict=True)}) > 1
    ids, mask = pad_rows("left", 41)
    more = {"eos_token_id": stop, "pad_token_id": 41}
    if by == "criterion":
        more |= {"stopping_criteria": [lambda ids, scores: ids[:, -1] == stop], "eos_token_id": 399}
    if sides == 2:  # each prompt twice
        more |= {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
    with Steering(model, [sae], method="swap", keep_error=False, special_ids=[SPECIAL]) as steering:
        model.generate(ids, attention_mask=mask, **settings(**more))
    expected = [
        plain_figures(model, sae, "swap", "all", text, len(one)) for one, text in zip(PROMPTS, texts, strict=True)
    ]
    assert_figures(figures_of(steering), [one for one in expected for _ in range(sides)])


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_beams_are_steered_and_measured_as_their_texts_alone(models, sae, use_cache, positions, embedded):
    model = models["mistral"]
    ids, mask = pad_rows("left", 41)
    given = {"inputs_embeds": model.get_input_embeddings()(ids)} if embedded else {"inputs": ids}
    with Steering(
        model, [sae], method="swap", keep_error=False, positions=positions, special_ids=[SPECIAL]
    ) as steering:
        out = model.generate(
            **given, attention_mask=mask, num_beams=4, num_return_sequences=2, use_cache=use_cache, pad_token_id=41,
            eos_token_id=270, length_penalty=1.0, return_dict_in_generate=True, output_scores=True, **settings(),
        )  # fmt: skip
    new = out.sequences if embedded else out.sequences[:, ids.shape[1] :]
    expected = []
    for number, row in enumerate(new.tolist()):
        prompt = PROMPTS[number // 2]
        made = row[: row.index(270) + 1] if 270 in row else row
        text = prompt + made
        logits, *_ = steered_forward(
            model, sae, "swap", text, meant_places(text, len(prompt), positions)
        )  # each beam's score is the sum of the steered model's own log probabilities
        chances = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = float(chances[torch.arange(len(made)), torch.tensor(made)].sum())
        assert float(out.sequences_scores[number]) == pytest.approx(total / len(made), abs=1e-4)
        expected.append(plain_figures(model, sae, "swap", positions, text, len(prompt)))
    assert_figures(figures_of(steering), expected)


# several turns and prompts in one block


def test_a_second_turn_goes_on_from_the_cache_of_the_first(models, sae):
    ids, expected = plain("mistral", "swap", "all")
    found, steering = run(models["mistral"], sae, turns)
    assert found == ids
    assert_figures(figures_of(steering), [expected])


def test_figures_are_those_of_the_last_prompt(models, sae):
    model, found = models["gpt2"], []
    with Steering(model, [sae], method="swap", keep_error=False, special_ids=[SPECIAL]) as steering:
        for _ in range(2):
            for prompt in (PROMPTS[1], PROMPT):
                text = model.generate(torch.tensor([prompt]), **settings())[0].tolist()
                found.append((text, len(prompt), figures_of(steering)))
        with torch.no_grad():
            model(torch.tensor([[30, 41, 52]]))
        found.append(([30, 41, 52], 3, figures_of(steering)))
    for text, length, figures in found:
        assert_figures(figures, [plain_figures(model, sae, "swap", "all", text, length)])


def test_two_caches_in_turn_are_two_texts(models, sae):
    model, texts, caches = models["gpt2"], [list(one) for one in PROMPTS[:2]], [None, None]
    with Steering(
        model, [sae], method="swap", keep_error=False, positions="generated", special_ids=[SPECIAL]
    ) as steering:
        for _ in range(NEW):
            for number, text in enumerate(texts):
                given = text if caches[number] is None else text[-1:]
                with torch.no_grad():
                    out = model(torch.tensor([given]), past_key_values=caches[number])
                caches[number] = next(value for value in out.values() if hasattr(value, "get_seq_length"))
                text.append(int(out.logits[0, -1].argmax()))
    assert texts == [plain_text(model, sae, "swap", "generated", one) for one in PROMPTS[:2]]
    assert_figures(figures_of(steering), [plain_figures(model, sae, "swap", "generated", texts[1], len(PROMPTS[1]))])


def test_a_cut_cache_goes_on_where_it_was_cut(models, sae):
    model, cache = models["gpt2"], DynamicCache(config=models["gpt2"].config)
    ids, _ = plain("gpt2", "swap", "prompt")
    with (
        Steering(model, [sae], method="swap", keep_error=False, positions="prompt", special_ids=[SPECIAL]) as steering,
        torch.no_grad(),
    ):
        model(torch.tensor([PROMPT]), past_key_values=cache)
        cache.crop(-1)
        logits = model(torch.tensor([PROMPT[-1:]]), past_key_values=cache).logits
        assert int(logits[0, -1].argmax()) == ids[len(PROMPT)]
        figures = figures_of(steering)
        with pytest.raises(AtlasError, match="positions prompt: a call gives 3 tokens at once after 8"):
            model(torch.tensor([[7, 8, 9]]), past_key_values=cache)
    assert_figures(figures, [plain_figures(model, sae, "swap", "prompt", PROMPT, len(PROMPT))])


@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_rows_that_grow_into_their_pads_are_told_row_by_row(models, sae, positions):
    """A loop of one's own over a batch padded on the right, where each row writes its next token over its first pad."""
    model, rows = models["gpt2"], [list(one) for one in PROMPTS]
    longest = max(map(len, rows)) + NEW
    with Steering(model, [sae], method="swap", keep_error=False, positions=positions, special_ids=[SPECIAL]):
        for _ in range(NEW):
            ids = torch.tensor([row + [41] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            with torch.no_grad():
                logits = model(ids, attention_mask=mask, use_cache=False).logits
            for row, found in zip(rows, logits, strict=True):
                row.append(int(found[len(row) - 1].argmax()))
    assert rows == [plain_text(model, sae, "swap", positions, one) for one in PROMPTS]


def test_steerings_on_one_model_stack_and_each_has_its_figures(models, sae):
    model = models["gpt2"]
    with Steering(model, [sae], method="sae", keep_error=False, positions="generated", special_ids=[SPECIAL]) as outer:
        with Steering(model, [sae], method="swap", keep_error=False, special_ids=[SPECIAL]) as inner:
            both = model.generate(torch.tensor([PROMPT]), **settings())[0].tolist()
        alone = model.generate(torch.tensor([PROMPT]), **settings())[0].tolist()
    assert figures_of(inner) != figures_of(outer)
    assert alone == plain_text(model, sae, "sae", "generated", PROMPT)
    assert both != alone
    assert_figures(figures_of(outer), [plain_figures(model, sae, "sae", "generated", alone, len(PROMPT))])
    assert not {"generate", "prepare_inputs_for_generation"} & set(vars(model))


# what is not supported is said


def test_a_cache_from_before_the_block_is_said_or_refused(models, sae):
    model = models["gpt2"]
    with torch.no_grad():
        before = model(torch.tensor([PROMPT])).past_key_values
    with (
        Steering(model, [sae], method="swap", keep_error=False) as steering,
        pytest.warns(UserWarning, match="holds 8 tokens that were"),
        torch.no_grad(),
    ):
        model(torch.tensor([[7, 8]]), past_key_values=deepcopy(before))
    assert steering.contamination()[0] is not None
    with (
        Steering(model, [sae], method="swap", keep_error=False, positions="generated"),
        pytest.warns(UserWarning),
        pytest.raises(AtlasError, match="where the prompt ends cannot be told"),
    ):
        model(torch.tensor([[7]]), past_key_values=deepcopy(before))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"attention_mask": torch.ones(1, 6)},
            "the attention mask covers 6 tokens, and the KV cache and the call have 0",
        ),
        ({"position_ids": torch.tensor([[5]])}, "1 token at place 5 with an empty KV cache"),
        ({"cu_seq_lens_q": torch.tensor([0, 1])}, "several texts packed into one row"),
    ],
)
def test_a_call_that_cannot_be_explained_is_refused(models, sae, given, message):
    with Steering(models["gpt2"], [sae]), pytest.raises(AtlasError, match=message):
        models["gpt2"](torch.tensor([[30]]), **given)


def test_a_mask_in_which_pads_cannot_be_seen_is_said(models, sae):
    with Steering(models["gpt2"], [sae]), pytest.warns(UserWarning, match="pads cannot be told"), torch.no_grad():
        models["gpt2"](torch.tensor([[30, 41]]), attention_mask=torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_a_batch_on_a_bridge_gives_the_text_and_figures_of_each_alone(language_model, sae, positions):
    bridge, prompts = language_model.bridge, ["The doctor gave", "A boat on the open sea"]
    found = []
    for batch in ([prompts], [[one] for one in prompts]):
        texts, figures = [], []
        for given in batch:
            with Steering(
                bridge, [sae], method="swap", keep_error=False, positions=positions, special_ids=[SPECIAL]
            ) as steering:
                out = bridge.generate(
                    given, max_new_tokens=5, do_sample=False, verbose=False, use_past_kv_cache=False, stop_at_eos=False
                )
            texts += out if isinstance(out, list) else [out]
            figures += figures_of(steering)
        found.append((texts, figures))
    assert found[0][0] == found[1][0]
    assert_figures(found[0][1], found[1][1])


def test_special_tokens_are_known_by_their_embeddings(models, sae):
    model, ids = models["gemma2"], torch.tensor([PROMPT])
    found = []
    for given in ({"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        with (
            Steering(model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL, 52]) as steering,
            torch.no_grad(),
        ):
            found.append(model(**given).logits)
    torch.testing.assert_close(*found)
    assert steering.saw_embeddings
