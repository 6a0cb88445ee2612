"""Atlas files made by hand, for what needs a database and no model."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from atlas.building.plan import LIBRARIES
from atlas.store.file import SCHEMA_VERSION, Store
from atlas.store.session import now
from atlas.texts.prompts import TextSet, collect_texts

SUMMARIES = {"mean": 0, "max": 1, "count": 2}  # place of each in a stack of raw values


def unit_vectors(rng: np.random.Generator, count: int, dimension: int = 8) -> np.ndarray:
    """Random embeddings of length 1 [count, dimension]."""
    vectors = rng.standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_raw(rng: np.random.Generator, prompts: int, neurons: int, share: float = 0.4) -> np.ndarray:
    """Sums, peaks and counts [3, prompt, neuron]; zero where a neuron did not fire; the last neuron never fires."""
    count = rng.integers(1, 6, (prompts, neurons)) * (rng.random((prompts, neurons)) < share)
    count[:, -1] = 0
    peak = rng.random((prompts, neurons)) * (count > 0)
    return np.stack([peak * (1 + count) / 2, peak, count]).astype(np.float32)


TOKENS = 10  # of every prompt


@functools.cache
def _empty_atlas() -> bytes:
    """The file that `Store.create` makes, made once."""
    with tempfile.TemporaryDirectory() as folder:
        Store(Path(folder) / "empty").create()
        return (Path(folder) / "empty").read_bytes()


def make_store(path: Path, raws: list[np.ndarray], vectors: np.ndarray, totals: np.ndarray | None = None) -> Store:
    """A finished atlas of prompts `prompt 0`, ... and one SAE per raw stack [3, prompt, neuron].

    The totals [3, prompt] are the sums over neurons, unless they are given.
    """
    path.write_bytes(_empty_atlas())
    store = Store(path)
    prompts = pl.DataFrame({
        "prompt_id": range(len(vectors)), "text": [f"prompt {i}" for i in range(len(vectors))],
        "n_tokens": [TOKENS] * len(vectors),
    })  # fmt: skip
    with store.write() as session:
        session.append("atlas", pl.DataFrame({
            "schema_version": [SCHEMA_VERSION], "state": ["complete"], "encoder": ["none"], "encoder_hash": ["none"],
            "reference_hash": ["first"], "created_at": [now()], "libraries": [str(LIBRARIES)],
        }))  # fmt: skip
        session.append("prompts", prompts)
        session.append("embeddings", pl.DataFrame({"prompt_id": range(len(vectors)), "vector": vectors.tolist()}))
        for key, raw in enumerate(raws):
            _append_sae(session, key, raw, raw.sum(axis=2) if totals is None else totals)
    return store


def _append_sae(session, key: int, raw: np.ndarray, totals: np.ndarray) -> None:
    prompt, neuron = np.nonzero(raw[2])
    fired = raw[:, prompt, neuron]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(raw > 0, raw / totals[:, :, None].astype(np.float64), 0)
    mass, square = weights.sum(axis=1), (weights**2).sum(axis=1)
    sae_key = pl.lit(key, pl.UInt32).alias("sae_key")
    neurons = range(raw.shape[2])
    session.append("saes", pl.DataFrame({
        "sae_id": [f"sae-{key}"], "release": ["r"], "sae_hash": ["s"], "model": ["m"], "model_hash": ["m"],
        "tokenizer_hash": ["t"], "hook_name": ["blocks.0.hook_resid_post"], "d_in": [8], "d_sae": [raw.shape[2]],
        "dtype": ["float32"], "context_size": [16], "prepend_bos": [True], "center_writing_weights": [False],
    }).with_columns(sae_key))  # fmt: skip
    session.append("neurons", pl.DataFrame({
        "neuron": neurons, "support": (raw[2] > 0).sum(axis=0), "mass_mean": mass[0], "mass_max": mass[1],
        "mass_count": mass[2], "square_mean": square[0], "square_max": square[1], "square_count": square[2],
        "density": raw[2].sum(axis=0) / raw.shape[1] / TOKENS,
        "max_activation": raw[1].max(axis=0), "top_tokens": [[f" t{n}"] for n in neurons],
        "decoder_norm": [1.0] * len(neurons),
    }).with_columns(sae_key))  # fmt: skip
    session.append("prompt_totals", pl.DataFrame({
        "prompt_id": range(raw.shape[1]), "sum_total": totals[0], "max_total": totals[1], "count_total": totals[2],
    }).with_columns(sae_key))  # fmt: skip
    session.append("activations", pl.DataFrame({
        "neuron": neuron, "prompt_id": prompt, "act_sum": fired[0], "act_max": fired[1], "act_count": fired[2],
    }).sort("neuron", "prompt_id").with_columns(sae_key))  # fmt: skip


class Embedder:
    """Stands where the encoder's embedding function does; gives the vectors it was told and counts its calls."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.calls = 0

    def __call__(self, texts) -> pl.DataFrame:
        self.calls += 1
        return pl.DataFrame({"vector": [list(map(float, self.vectors[text])) for text in texts]})


def make_topics(rng: np.random.Generator, **counts: int) -> tuple[dict[str, TextSet], Embedder]:
    """Topics of so many texts each, and their embeddings."""
    topics = {name: collect_texts([f"{name} text {i}" for i in range(count)]) for name, count in counts.items()}
    texts = [text for topic in topics.values() for text in topic.texts]
    return topics, Embedder(dict(zip(texts, unit_vectors(rng, len(texts)), strict=True)))


def reference_scores(
    raw: np.ndarray, vectors: np.ndarray, topic: np.ndarray, *, distance: str, power: float, min_support: int
) -> tuple[np.ndarray, np.ndarray]:
    """Section 3 of the method in five lines: (g, score), NaN where there is none; raw [prompt, neuron]."""
    d = np.linalg.norm(vectors[:, None] - topic[None], axis=2).min(axis=1).astype(np.float64)
    d = 1 - (vectors @ topic.T).max(axis=1).astype(np.float64) if distance == "cosine" else d
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.nan_to_num(raw / raw.sum(axis=1, keepdims=True, dtype=np.float64))
        g = (w * d[:, None] ** power).sum(axis=0) / w.sum(axis=0)
    eligible = np.where((raw > 0).sum(axis=0) >= min_support, g, np.nan)
    return g, 1 - (eligible - np.nanmin(eligible)) / (np.nanmax(eligible) - np.nanmin(eligible))
