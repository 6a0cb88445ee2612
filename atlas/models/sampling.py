"""Sample tokens so that each text of a batch has random numbers of its own seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def seeded_sampler(seeds: Iterable[int], temperature: float, top_k: int, top_p: float) -> Any:
    """Logits processors under which taking the likeliest token is sampling, each row with a seed of its own.

    Hugging Face's own temperature, top-k and top-p, then Gumbel noise: the largest of logits + noise is a sample of the
    softmax. With temperature 0 there are none.
    """
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    if temperature == 0:
        return LogitsProcessorList()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def add_noise(_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=generator) for generator in generators])
        return scores - torch.log(-torch.log(uniform.clamp(min=1e-20))).to(scores)

    steps: list[Any] = [TemperatureLogitsWarper(float(temperature))]
    if top_k > 0:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList([*steps, add_noise])
