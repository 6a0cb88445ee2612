"""The published approach, re-implemented.

Scoring: activations as a dense table in CSV, a loop over the prompts. Steering: the whole code and the whole decoder of
every token of the text, in a model that keeps no cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from atlas.store.file import Store

PROMPTS_AT_ONCE = 256


def write_csv(store: Store, path: Path) -> None:
    """The weights w of every prompt and neuron, zeros too: a line per prompt, a column per neuron."""
    with store.read() as session:
        neurons = session.sql("select count(*) from neurons").item()
        prompts = session.sql("select count(*) from prompts").item()
    with path.open("wb") as file:
        for first in range(0, prompts, PROMPTS_AT_ONCE):
            with store.read() as session:
                rows = session.sql(
                    "select a.prompt_id, a.neuron, (a.act_sum / p.sum_total)::float as w from activations as a "
                    "join prompt_totals as p on p.prompt_id = a.prompt_id "
                    f"where a.prompt_id >= {first} and a.prompt_id < {first + PROMPTS_AT_ONCE}"
                )
            dense = np.zeros((min(PROMPTS_AT_ONCE, prompts - first), neurons), np.float32)
            dense[rows["prompt_id"].to_numpy() - first, rows["neuron"].to_numpy()] = rows["w"].to_numpy()
            pl.DataFrame(dense).write_csv(file, include_header=False)


def score_from_csv(path: Path, vectors: np.ndarray, topic: np.ndarray) -> np.ndarray:
    """Scores [neuron] of a topic [text, dimension] over prompts [prompt, dimension], without a support filter."""
    import pandas

    weights = pandas.read_csv(path, header=None).to_numpy()
    total = np.zeros(weights.shape[1])
    mass = np.zeros(weights.shape[1])
    for prompt, vector in enumerate(vectors):
        distance = np.linalg.norm(topic - vector, axis=1).min()
        total += weights[prompt] * distance**2
        mass += weights[prompt]
    with np.errstate(divide="ignore", invalid="ignore"):
        g = total / mass
    return 1 - (g - np.nanmin(g)) / (np.nanmax(g) - np.nanmin(g))


@contextmanager
def swapping(block: torch.nn.Module, sae: Any, scores: torch.Tensor) -> Iterator[None]:
    """Swap by an SAELens SAE in the output of a Hugging Face model's block, without the tables the original writes."""
    caught: list[torch.Tensor] = []

    def weigh(module: Any, inputs: Any, pre: torch.Tensor) -> torch.Tensor:
        caught.append(pre)
        return pre * scores

    def swap(module: Any, inputs: Any, output: Any) -> Any:
        chosen = sae.encode(output[0] if isinstance(output, tuple) else output) != 0
        moved = sae.decode(chosen * caught.pop())
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handles = [sae.hook_sae_acts_pre.register_forward_hook(weigh), block.register_forward_hook(swap)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
