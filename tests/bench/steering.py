"""Benchmark of steered generation: tokens/s of swap against unsteered generation, and against the published approach."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from transformers import GPT2Config, GPT2LMHeadModel

from atlas.models.codec import Codec
from atlas.models.hooks import find_blocks
from atlas.models.loading import load_language_model, load_tokenizer, load_transformer
from atlas.models.quiet import quiet
from atlas.models.saes import load_sae
from atlas.steering.intervention import Steering
from atlas.steering.methods import SteeredSae, Target
from atlas.texts import bundled

from .measure import Figure, Setting, figure
from .published import swapping

PROMPT = "Yesterday my friend told me about"
TOKENS = {"small": 24, "paper": 64, "large": 64}


class Shape(NamedTuple):
    """A language model as a Hugging Face model and as a bridge, an SAE of it, and the tokens of a prompt."""

    name: str
    transformer: Any
    bridge: Any
    layer: SteeredSae
    ids: torch.Tensor
    special_ids: list[int]
    target: float  # least ratio of steered to unsteered tokens/s


def pocket_shape(setting: Setting) -> Shape:
    """The bundled model and its first SAE."""
    transformer, tokenizer = load_transformer(str(bundled.MODEL))
    sae = load_sae(str(bundled.SAES), bundled.sae_ids()[0])
    bridge = load_language_model(str(bundled.MODEL)).bridge
    layer = make_layer(sae.codec, sae.hook_name)
    return Shape("pocket", transformer, bridge, layer, make_ids(tokenizer), tokenizer.all_special_ids, 0.9)


def large_shape(setting: Setting) -> Shape:
    """GPT-2 small and a TopK SAE of 32,768 neurons in its middle, with random weights."""
    folder = setting.folder / "gpt2-small-shape"
    torch.manual_seed(0)
    with quiet():
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
        load_tokenizer(str(bundled.MODEL)).save_pretrained(folder)
    transformer, tokenizer = load_transformer(str(folder))
    sae_class, config_class = SAE_CLASS_REGISTRY["topk"]
    hook_name = "blocks.6.hook_resid_post"
    sae = sae_class(config_class(d_in=768, d_sae=32768, k=32, metadata=SAEMetadata(hook_name=hook_name)))
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = 0.03 * torch.randn(parameter.shape, generator=generator)
    bridge = load_language_model(str(folder)).bridge
    layer = make_layer(Codec(sae), hook_name)
    return Shape("GPT-2 small", transformer, bridge, layer, make_ids(tokenizer), tokenizer.all_special_ids, 0.85)


def make_ids(tokenizer: Any) -> torch.Tensor:
    """The prompt, a batch of one."""
    return torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])


def make_layer(codec: Codec, hook_name: str) -> SteeredSae:
    """The SAE with random scores."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(codec.d_sae, generator=generator)
    return SteeredSae(hook_name, codec, Target(scores, torch.ones(codec.d_sae), scores.argsort(descending=True)))


def steer(setting: Setting) -> Iterator[Figure]:
    """Swap through the bridge and through plain hooks, cached and not; the large shape from scale paper on."""
    for make in (pocket_shape,) if setting.small else (pocket_shape, large_shape):
        yield from _figures(setting, make(setting))


@torch.inference_mode()
def _figures(setting: Setting, shape: Shape) -> Iterator[Figure]:
    count = TOKENS[setting.scale]

    def plain(cached: bool) -> Callable[[], object]:
        settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(shape.ids)
        return lambda: shape.transformer.generate(shape.ids, attention_mask=mask, use_cache=cached, **settings)

    def bridged() -> object:
        with quiet():
            return shape.bridge.generate(
                shape.ids,
                max_new_tokens=count,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=True,
                verbose=False,
            )

    def steered(model: Any, call: Callable[[], object], *, read: bool = False, **settings: Any) -> Callable[[], object]:
        def run() -> None:
            given = {"method": "swap", "keep_error": False, "special_ids": shape.special_ids} | settings
            with Steering(model, [shape.layer], **given) as steering:
                call()
            if read:
                steering.contamination(), steering.swapped()

        return run

    def published() -> None:
        number = int(re.findall(r"\d+", shape.layer.hook_name)[0])
        with swapping(find_blocks(shape.transformer)[number], shape.layer.codec.sae, shape.layer.target.scores):
            plain(False)()

    seconds = setting.time_all(
        {
            "plain": plain(True),
            "swap": steered(shape.transformer, plain(True)),
            "read": steered(shape.transformer, plain(True), read=True),
            "kept": steered(shape.transformer, plain(True), keep_error=True),
            "bridge": bridged,
            "bridge swap": steered(shape.bridge, bridged),
            "plain uncached": plain(False),
            "published": published,
        }
    )
    speed = {name: count / found for name, found in seconds.items()}
    share = speed["swap"] / speed["plain"]
    yield figure(f"{shape.name}: Hugging Face generate, unsteered", speed["plain"], "tokens/s")
    yield figure(f"{shape.name}: Hugging Face generate, swap (fast path)", speed["swap"], "tokens/s")
    yield figure(f"{shape.name}: Hugging Face, swap / unsteered", share, at_least=shape.target)
    yield figure(f"{shape.name}: fast path / plain Hugging Face generate", share, at_least=0.85)
    yield figure(f"{shape.name}: Hugging Face, swap with its figures / unsteered", speed["read"] / speed["plain"])
    yield figure(f"{shape.name}: Hugging Face, swap with the error kept / unsteered", speed["kept"] / speed["plain"])
    yield figure(f"{shape.name}: bridge, unsteered", speed["bridge"], "tokens/s")
    yield figure(
        f"{shape.name}: bridge, swap / unsteered", speed["bridge swap"] / speed["bridge"], at_least=shape.target
    )
    gain, unsteered = speed["swap"] / speed["published"], speed["plain"] / speed["plain uncached"]
    yield figure(f"{shape.name}: unsteered, cached / uncached", unsteered)
    yield figure(f"{shape.name}: swap / published approach (no cache)", gain)
    yield figure(f"{shape.name}: that / what the cache gives unsteered", gain / unsteered, at_least=0.9)
