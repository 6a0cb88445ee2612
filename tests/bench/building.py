"""Benchmarks of the bundled model over real text: build, build_memory, topic, cli."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import atlas.building.build
from atlas.building.plan import SHARD_PROMPTS
from atlas.models.activations import run_model, tokenize
from atlas.models.embeddings import embed_frame
from atlas.models.encoders import Encoder, load_encoder
from atlas.models.loading import LanguageModel, load_language_model
from atlas.models.saes import LoadedSae, load_sae
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts import bundled
from atlas.texts.prompts import TextSet, collect_texts, read_texts

from .measure import Figure, Setting, figure, peak_memory
from .scoring import synthetic_store

BATCH = 32  # as `atlas build` has it
PROMPTS = {"small": 64, "paper": 3360, "large": 3360}  # 3,360 are all that are bundled
MEMORY_PROMPTS = (1000, 4000, 16000)
COUNTER = itertools.count(1)
LIGHT = "import duckdb, sqlalchemy, polars"
HEAVY = "import sentence_transformers"
TOPIC = "medicine"

language_model = cache(partial(load_language_model, str(bundled.MODEL)))
encoder = cache(load_encoder)
first_sae = cache(lambda: load_sae(str(bundled.SAES), bundled.sae_ids()[0]))


def run_python(*arguments: str) -> None:
    """Run a Python process to its end."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def some_prompts(count: int, characters: int | None = None) -> TextSet:
    """So many of the bundled prompts, each cut to so many characters; numbered when there are too few."""
    texts = read_texts(bundled.PROMPTS).texts
    rounds = range(-(-count // len(texts)))
    numbered = [f"{n}. {text}" if n else text for n in rounds for text in texts]
    return collect_texts(list(dict.fromkeys(text[:characters] for text in numbered))[:count])


@dataclass(frozen=True)
class Loaded:
    """What a build loads, loaded already.

    Attributes:
        bundle: whose model and SAEs they are.
        model: the language model.
        saes: sae_id -> SAE.
        encoder: the sentence encoder.
    """

    bundle: bundled.Bundle
    model: LanguageModel
    saes: Mapping[str, LoadedSae]
    encoder: Encoder


def pocket() -> Loaded:
    """The small bundled model with its first SAE."""
    return Loaded(bundled.BUNDLES["pocket"], language_model(), {bundled.sae_ids()[0]: first_sae()}, encoder())


def build_loaded(path: Path, prompts: TextSet, loaded: Loaded | None = None) -> None:
    """`build` with everything loaded already; None for pocket()."""
    own = loaded or pocket()
    loaders: dict[str, Any] = {
        "load_language_model": lambda *a, **k: own.model,
        "load_encoder": lambda *a, **k: own.encoder,
        "load_sae": lambda _release, sae_id, **k: own.saes[sae_id],
    }
    path.unlink(missing_ok=True)
    with patch.multiple(atlas.building.build, **loaders):
        saes = [(str(own.bundle.saes), sae_id) for sae_id in own.saes]
        atlas.building.build.build_atlas(path, prompts, model=own.bundle.model, saes=saes)


def run_bare(loaded: Loaded, prompts: TextSet) -> None:
    """The forward passes of model, SAEs and encoder over the batches of a build, and nothing else."""
    saes = list(loaded.saes.values())
    hook_names = [sae.hook_name for sae in saes]
    ids, _ = tokenize(loaded.model, prompts.texts, prepend_bos=saes[0].prepend_bos)
    for first in range(0, len(ids), SHARD_PROMPTS):
        shard = sorted(ids[first : first + SHARD_PROMPTS], key=len)
        loaded.encoder.embed(prompts.texts[first : first + SHARD_PROMPTS])
        for start in range(0, len(shard), BATCH):
            caught = run_model(loaded.model, shard[start : start + BATCH], hook_names)
            for sae in saes:
                for row in caught[sae.hook_name]:
                    sae.codec.encode(row)


def build(setting: Setting) -> Iterator[Figure]:
    """Prompts/s of a build against the bare forward passes."""
    prompts = some_prompts(PROMPTS[setting.scale])
    seconds = setting.time_all(
        {
            "build": lambda: build_loaded(setting.folder / "build.atlas", prompts),
            "bare": lambda: run_bare(pocket(), prompts),
        }
    )
    count = len(prompts.texts)
    yield figure(f"build of {count:,} prompts", count / seconds["build"], "prompts/s")
    yield figure("bare forward passes", count / seconds["bare"], "prompts/s")
    yield figure("build / bare forward passes", seconds["bare"] / seconds["build"], at_least=0.85)


def build_memory(setting: Setting) -> Iterator[Figure]:
    """Peak memory of whole build processes over more and more prompts, each cut to 200 characters."""
    peaks = []
    for count in MEMORY_PROMPTS:
        path = setting.folder / f"memory-{count}.atlas"
        peaks.append(peak_memory("build", count, path))
        path.unlink()
        yield figure(f"peak memory of a build of {count:,} prompts", peaks[-1], "MiB")
    yield figure(f"largest peak / that of {MEMORY_PROMPTS[0]:,} prompts", max(peaks) / peaks[0], at_most=1.1)


def topic(setting: Setting) -> Iterator[Figure]:
    """A new topic from 20 raw texts to stored scores in a warm process, against the encoder's own time."""
    store = synthetic_store(setting)
    texts = bundled.read_topics()[TOPIC]

    def whole() -> None:
        new = {f"{TOPIC} {next(COUNTER)}": texts}
        score_topics(store, new, embed=partial(embed_frame, encoder()), config=ScoringConfig())

    seconds = setting.time_all({"topic": whole, "encoder": lambda: encoder().embed(texts.texts)})
    yield figure(f"{len(texts.texts)} raw texts to stored scores, z included", seconds["topic"], "s", at_most=1)
    yield figure("sentence encoder", seconds["encoder"], "s")
    yield figure("what is added to the encoder's time", seconds["topic"] - seconds["encoder"], "s", at_most=0.5)


def cli(setting: Setting) -> Iterator[Figure]:
    """`atlas top`, `search` and `score` as whole processes, against the imports of libraries."""
    path = setting.folder / "cli.atlas"
    build_loaded(path, some_prompts(512))
    topics = bundled.read_topics()
    score_topics(Store(path), {TOPIC: topics[TOPIC]}, embed=partial(embed_frame, encoder()))
    texts = bundled.TOPICS / "20" / f"{TOPIC}.txt"

    command = ("-m", "atlas.cli.main")
    seconds = setting.time_all(
        {
            "top": lambda: run_python(*command, "top", str(path), TOPIC),
            "score": lambda: run_python(*command, "score", str(path), f"{TOPIC} {next(COUNTER)}", str(texts)),
            "search": lambda: run_python(*command, "search", str(path), "a pain in the chest"),
            "light": lambda: run_python("-c", LIGHT),
            "heavy": lambda: run_python("-c", HEAVY),
        }
    )
    yield figure("atlas top", seconds["top"], "s")
    yield figure(f'atlas top / python -c "{LIGHT}"', seconds["top"] / seconds["light"], at_most=1.5)
    yield figure("atlas score", seconds["score"], "s")
    yield figure(f'atlas score / python -c "{HEAVY}"', seconds["score"] / seconds["heavy"], at_most=0.25)
    yield figure("atlas search", seconds["search"], "s")
    yield figure(f'atlas search / python -c "{HEAVY}"', seconds["search"] / seconds["heavy"], at_most=0.25)
