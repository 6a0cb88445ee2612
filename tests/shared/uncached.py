"""What steering gives, in a few lines of their own: one text at a time, read anew for every token, without a KV cache."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
from targets import make_target
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from atlas.models.codec import Codec
from atlas.steering.methods import METHODS, MovedActivation, SteeredSae, settle_options
from atlas.steering.settings import Options

HOOK = "blocks.0.hook_resid_post"
SPECIAL = 0
PROMPT = [SPECIAL, 30, 41, 52, 63, 74, 41, 52]
PROMPTS = [PROMPT, [SPECIAL, 99, 120], [SPECIAL, 7, 7, 200, 31]]
NEW = 7
SIMPLE = ("swap", "add", "clamp-plus")
SHAPE = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": None,
    "pad_token_id": 5,
}  # fmt: skip


def make_model(kind: str, seed: int = 0):
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=400, n_positions=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=None,
            pad_token_id=5,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    elif kind == "mistral":  # every layer looks at the last tokens only
        model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))
    else:  # one layer in two does
        model = Gemma2ForCausalLM(Gemma2Config(**SHAPE, sliding_window=4, query_pre_attn_scalar=8))
    tiny.randomise(model, seed=seed, scale=0.3)
    model.get_input_embeddings().weight.data *= 4
    return model.eval().requires_grad_(False)


def make_steered_sae(hook_name=HOOK, *, double=False):
    made = tiny.make_kind("topk", hook_name=hook_name)
    return SteeredSae(hook_name, Codec(made.to(torch.float64) if double else made), make_target())


def steered_forward(model, sae, method, ids, meant):
    """Logits of one text without a cache, its block edited where `meant` [token] says; the block's acts before, after."""
    caught = []

    def edit(module, args, output):
        x = output[0] if isinstance(output, tuple) else output
        found = METHODS[method].edit(sae.codec, x, sae.target, settle_options(method, Options()))
        if isinstance(found, MovedActivation):
            moved, was = found.activation, sae.codec.encode(found.activation)
            caught.append((was.acts[0], was.acts[0]))
        else:
            code, acts = found.code, found.acts
            moved = sae.codec.decode(acts, code, x)
            full = [torch.zeros(*x.shape[:2], sae.codec.d_sae) for _ in range(2)]
            for place, part in zip(full, (code.acts, acts), strict=True):
                place[..., slice(None) if code.neurons is None else code.neurons] = part
            caught.append((full[0][0], full[1][0]))
        moved = torch.where(torch.tensor(meant)[None, :, None], moved, x)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    block = model.get_decoder().h[0] if hasattr(model.get_decoder(), "h") else model.get_decoder().layers[0]
    handle = block.register_forward_hook(edit)
    try:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits[0], *caught[0]
    finally:
        handle.remove()


def meant_places(ids, prompt, positions):
    inside = {"all": lambda i: True, "prompt": lambda i: i < prompt, "generated": lambda i: i >= prompt}[positions]
    return [inside(i) and one != SPECIAL for i, one in enumerate(ids)]


def plain_text(model, sae, method, positions, prompt, new=NEW, stop=None):
    ids = list(prompt)
    for _ in range(new):
        logits, *_ = steered_forward(model, sae, method, ids, meant_places(ids, len(prompt), positions))
        ids.append(int(logits[-1].argmax()))
        if ids[-1] == stop:
            break
    return ids


@functools.cache
def plain(kind, method, positions):
    """The plain way's text and figures of PROMPT."""
    model, sae = make_model(kind), make_steered_sae()
    ids = plain_text(model, sae, method, positions, PROMPT)
    return ids, plain_figures(model, sae, method, positions, ids, len(PROMPT))


def plain_figures(model, sae, method, positions, ids, prompt):
    """Contamination, kept, new, dropped of a text whose last token the model does not read."""
    read = ids[:-1] if len(ids) > prompt else ids
    meant = meant_places(read, prompt, positions)
    _, was, now = steered_forward(model, sae, method, read, meant)
    was, now = was[torch.tensor(meant)], now[torch.tensor(meant)]
    if not len(now):
        return [None, 0, 0, 0]
    size = now.abs()
    purity = [float(a @ (1 - sae.target.scores) / a.sum()) for a in size if a.sum() > 0]
    both, new, dropped = (now != 0) & (was != 0), (now != 0) & (was == 0), (was != 0) & (now == 0)
    return [sum(purity) / len(purity), *(float(part.sum(-1).double().mean()) for part in (both, new, dropped))]


def figures_of(steering):
    return [
        [purity, counts["kept"], counts["new"], counts["dropped"]]
        for purity, counts in zip(steering.contamination(), steering.swapped(), strict=True)
    ]


def assert_figures(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one[0] is None) == (other[0] is None)
        assert [value or 0 for value in one] == pytest.approx([value or 0 for value in other], abs=2e-4)
