"""Generate text under a steering method, with Hugging Face's own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlas.errors import AtlasError
from atlas.models.loaded import LoadedModel
from atlas.models.sampling import seeded_sampler
from atlas.models.tokens import pad_left
from atlas.steering.call_watching import token_ids
from atlas.steering.intervention import Steering

BATCH_SIZE = 32  # texts generated at once


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
    strength: float | None = None


@torch.inference_mode()
def generate(
    model: LoadedModel,
    prompts: Sequence[str],
    steering: Steering,
    *,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
) -> list[Generation]:
    """Go on with prompts under a steering method, in batches.

    Each prompt has random numbers of its own seed, the same whatever the batch and the method, so that texts under two
    methods differ by the method alone. The caller's random state is not touched.

    Args:
        model: the model that `steering` steers.
        prompts: what the model is given.
        steering: by what; entered anew for each batch.
        sampling: how tokens are drawn.
        seeds: one per prompt; None for sampling.seed each.

    Returns:
        A generation per prompt, in order.
    """
    ids = model.prompt_rows(prompts)
    for prompt, row in zip(prompts, ids, strict=True):
        check_length(prompt, len(row), sampling.max_new_tokens, model.context)
    seeds = [sampling.seed] * len(prompts) if seeds is None else list(seeds)
    found: dict[int, Generation] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        with steering:
            texts = continue_ids(model, [ids[i] for i in chosen], [seeds[i] for i in chosen], sampling)
        purity = steering.contamination()
        changes = steering.swapped()
        for place, i in enumerate(chosen):
            found[i] = Generation(steering.method, prompts[i], texts[place], seeds[i], purity[place], **changes[place])
    return [found[i] for i in range(len(prompts))]


def generate_in_turn(
    model: LoadedModel,
    prompts: Sequence[str],
    steerings: Sequence[Steering],
    *,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Generation]:
    """Go on with prompt i under the i-th of some steerings, the first coming after the last; see generate."""
    found: dict[int, Generation] = {}
    for number, steering in enumerate(steerings):
        part = range(number, len(prompts), len(steerings))
        texts = generate(model, [prompts[i] for i in part], steering, sampling=sampling, seeds=[seeds[i] for i in part])
        found.update(zip(part, texts, strict=True))
    return [found[i] for i in range(len(prompts))]


def continue_ids(
    model: LoadedModel, ids: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
) -> list[str]:
    """What the model, as it is now, goes on with after each row of token ids; one batch, padded on the left."""
    rows = continued_rows(model, ids, seeds, sampling)
    return model.tokenizer.batch_decode(rows, skip_special_tokens=True)


def continued_rows(
    model: LoadedModel,
    ids: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    watch: Callable[[Tensor, Tensor], bool] | None = None,
) -> list[list[int]]:
    """The same as token ids, up to each row's end.

    Args:
        watch: called before each token is drawn, with all ids so far [row, place] and the model's logits for the next
            [row, vocabulary]; whether to stop before it. None to let it run.
    """
    transformer, tokenizer = model.transformer, model.tokenizer
    batch, mask, pad = pad_left(tokenizer, ids, transformer.device)
    sampler, extra = seeded_sampler(seeds, sampling.temperature, sampling.top_k, sampling.top_p), {}
    if watch is not None:
        watching = _Watch(watch)
        sampler.insert(0, watching)
        extra["stopping_criteria"] = [watching.stop]
    out = transformer.generate(
        batch,
        attention_mask=mask,
        pad_token_id=pad,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        num_beams=1,  # whatever the settings of the model say: a row is a text
        return_dict_in_generate=False,
        logits_processor=sampler,
        **extra,
    )
    if watch is not None and watching.stopped:
        out = out[:, :-1]  # the token that was drawn all the same
    stops = set(token_ids(transformer.generation_config.eos_token_id))
    return [_until_end(row, stops) for row in out[:, batch.shape[1] :].tolist()]


class _Watch:
    """Tells of each token before it is drawn, as the first of the processors of logits, and remembers whether to stop."""

    def __init__(self, watch: Callable[[Tensor, Tensor], bool]) -> None:
        self._watch, self.stopped = watch, False

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        self.stopped = self._watch(ids, logits) or self.stopped
        return logits

    def stop(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """What Hugging Face asks after each token: which rows are done."""
        return torch.full((len(ids),), self.stopped, device=ids.device)


def _until_end(row: list[int], stops: Collection[int]) -> list[int]:
    """A row up to its first stop: behind it a batch has pads, and a pad may be a token like any other."""
    end = next((place for place, one in enumerate(row) if one in stops), len(row))
    return row[: end + 1]


def check_length(prompt: str, tokens: int, new_tokens: int, context: int) -> None:
    """Raise AtlasError for a prompt without a token, or one that leaves too little of the context."""
    if not tokens:
        raise AtlasError(f"prompt {prompt!r} has no token: give some text")
    if tokens + new_tokens > context:
        raise AtlasError(
            f"a prompt of {tokens} tokens and {new_tokens} new ones do not fit into the context of "
            f"{context}: shorten the prompt or lower --max-new-tokens"
        )
