"""Generate text under a steering method, with Hugging Face's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atlas.errors import AtlasError
from atlas.methods import Options
from atlas.steering import Layer, Steering
from atlas.vocabulary import bos_token_id


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, as Hugging Face names them.

    Attributes:
        max_new_tokens: tokens to generate.
        temperature: 0 takes the likeliest token each time.
        top_k: sample among so many; 0 for all.
        top_p: sample among the likeliest with this total probability; 1 for all.
        seed: of the random numbers; the same for every method and prompt.
    """

    max_new_tokens: int = 40
    temperature: float = 1.0
    top_k: int = 5
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, range_ in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not good:
                raise AtlasError(f"{name} {getattr(self, name)} is out of range: give {range_}")


@dataclass(frozen=True)
class Generation:
    """One generated text and its figures."""

    method: str
    prompt: str
    text: str
    seed: int
    contamination: float | None
    kept: float
    new: float
    dropped: float


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    layers: Sequence[Layer],
    *,
    method: str,
    options: Options,
    keep_error: bool,
    positions: str,
    prepend_bos: bool,
    sampling: Sampling,
) -> Generation:
    """Go on with a prompt under a steering method; the caller's random state is put back."""
    ids = [bos_token_id(tokenizer)] * prepend_bos + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    context = model.config.max_position_embeddings
    if not ids:
        raise AtlasError(f"prompt {prompt!r} has no token: give some text")
    if len(ids) + sampling.max_new_tokens > context:
        raise AtlasError(
            f"a prompt of {len(ids)} tokens and {sampling.max_new_tokens} new ones do not fit into the context of "
            f"{context}: shorten the prompt or lower --max-new-tokens"
        )
    settings: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else bos_token_id(tokenizer)
    batch = torch.tensor([ids], device=model.device)
    steering = Steering(
        model,
        layers,
        method=method,
        options=options,
        keep_error=keep_error,
        positions=positions,
        special_ids=tokenizer.all_special_ids,
    )
    with torch.random.fork_rng(), torch.inference_mode(), steering:
        torch.manual_seed(sampling.seed)
        out = model.generate(batch, attention_mask=torch.ones_like(batch), pad_token_id=pad, **settings)
    text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    (contamination,) = steering.contamination()
    return Generation(method, prompt, text, sampling.seed, contamination, **steering.swapped())
