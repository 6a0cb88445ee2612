"""Synthetic atlases with the shape of a real build, seeded.

The shape was measured on a build of the bundled model: the share of prompts on which a neuron fires is log-normal with a
standard deviation of 1.38 in the logarithm (the tenth of the neurons that fire most holds 45 % of the rows), a neuron
that fires does so on one token in 64 of 100 prompts and on 18 or more in one of 100, and its largest activation is 2
plus a log-normal value of median 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from atlas.building.finish import write_sorted
from atlas.building.plan import SHARD_PROMPTS
from atlas.building.shards import sort_activations
from atlas.store.file import MEMORY_LIMIT, SCHEMA_VERSION, Store
from atlas.store.session import now
from atlas.texts.prompts import TextSet, collect_texts

SPREAD = 1.38  # standard deviation of the logarithm of a neuron's share of prompts
DIMENSION = 384  # of an embedding, as all-MiniLM-L6-v2 has it
TOKENS = 100  # of every prompt
EXAMPLES = pl.DataFrame(schema={"sae_key": pl.UInt32})  # no rows of `examples`


def firing_shares(rng: np.random.Generator, neurons: int, density: float) -> np.ndarray:
    """The share of prompts on which each neuron fires [neuron], `density` on average."""
    raw = np.exp(SPREAD * rng.standard_normal(neurons))
    low, high = 0.0, 1.0
    for _ in range(60):  # the cap at 1 lowers the average, so that the scale is searched for
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(raw * middle, 1).mean() < density else (low, middle)
    return np.minimum(raw * low, 1).astype(np.float32)


def shards(
    rng: np.random.Generator, *, prompts: int, shares: np.ndarray, size: int = SHARD_PROMPTS
) -> Iterator[pl.DataFrame]:
    """Rows of `activations` without sae_key, shard by shard, in the order in which a build writes them."""
    for first in range(0, prompts, size):
        fires = rng.random((min(size, prompts - first), len(shares)), dtype=np.float32) < shares
        prompt, neuron = np.nonzero(fires)
        count = 1 + np.floor(rng.pareto(1.6, len(neuron)).astype(np.float32)).clip(0, TOKENS - 1)
        peak = 2 + np.exp(rng.standard_normal(len(neuron), dtype=np.float32) + np.float32(np.log(4)))
        rest = rng.random(len(neuron), dtype=np.float32)
        yield pl.DataFrame(
            {
                "neuron": neuron.astype(np.uint32),
                "prompt_id": (prompt + first).astype(np.uint32),
                "act_sum": (peak * (1 + (count - 1) * rest)).astype(np.float32),
                "act_max": peak,
                "act_count": count.astype(np.uint32),
            }
        )


def write_shards(
    path: Path, *, prompts: int, neurons: int, rows: int, seed: int = 0, memory_limit: str = MEMORY_LIMIT
) -> Store:
    """An unfinished atlas of one SAE: what a build holds when the last shard is in; about so many activation rows."""
    rng = np.random.default_rng(seed)
    shares = firing_shares(rng, neurons, rows / prompts / neurons)
    store = Store(path, memory_limit=memory_limit)
    store.create()
    key = pl.lit(0, pl.UInt32).alias("sae_key")
    with store.write() as session:
        session.append("atlas", pl.DataFrame({
            "schema_version": [SCHEMA_VERSION], "state": ["building"], "encoder": ["none"], "encoder_hash": ["none"],
            "reference_hash": ["synthetic"], "created_at": [now()], "libraries": ["{}"],
        }))  # fmt: skip
        session.append("saes", pl.DataFrame({
            "sae_id": ["synthetic"], "release": ["synthetic"], "sae_hash": ["none"], "model": ["synthetic"],
            "model_hash": ["none"], "tokenizer_hash": ["none"], "hook_name": ["none"], "d_in": [8], "d_sae": [neurons],
            "dtype": ["float32"], "context_size": [TOKENS], "prepend_bos": [True], "center_writing_weights": [False],
        }).with_columns(key))  # fmt: skip
        session.append("prompts", pl.DataFrame({
            "prompt_id": range(prompts), "text": [f"prompt {i}" for i in range(prompts)], "n_tokens": [TOKENS] * prompts,
        }))  # fmt: skip
        session.append("embeddings", vectors_frame(rng, prompts).with_row_index("prompt_id"))
        session.append(
            "neurons", pl.DataFrame({"neuron": range(neurons), "decoder_norm": [1.0] * neurons}).with_columns(key)
        )
    for frame in shards(rng, prompts=prompts, shares=shares):
        totals = frame.group_by("prompt_id").agg(
            pl.col("act_sum").cast(pl.Float64).sum().alias("sum_total"),
            pl.col("act_max").cast(pl.Float64).sum().alias("max_total"),
            pl.col("act_count").cast(pl.Float64).sum().alias("count_total"),
        )
        with store.write() as session:
            session.append("activations", sort_activations(frame.with_columns(key)))
            session.append("prompt_totals", totals.with_columns(key))
    return store


def make_atlas(
    path: Path, *, prompts: int, neurons: int, rows: int, seed: int = 0, memory_limit: str = MEMORY_LIMIT
) -> Store:
    """A finished atlas of one SAE with about so many activation rows."""
    store = write_shards(path, prompts=prompts, neurons=neurons, rows=rows, seed=seed, memory_limit=memory_limit)
    write_sorted(store, EXAMPLES)
    return store


def vectors_frame(rng: np.random.Generator, count: int) -> pl.DataFrame:
    """Random embeddings of length 1: a column `vector`."""
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pl.DataFrame({"vector": pl.Series(vectors).arr.to_list()})


def make_topics(count: int, *, texts: int = 20, seed: int = 1, prefix: str = "topic") -> dict[str, TextSet]:
    """So many topics, and texts that an Embedder knows."""
    return {
        f"{prefix} {seed} {i}": collect_texts([f"{prefix} {seed} {i} text {j}" for j in range(texts)])
        for i in range(count)
    }


def embed(texts: object) -> pl.DataFrame:
    """Embeddings of texts that stand where an encoder's would; the same for the same number of texts."""
    return vectors_frame(np.random.default_rng(7), len(list(texts)))
