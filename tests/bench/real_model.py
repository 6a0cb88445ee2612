"""Benchmarks of SmolLM2 (see data/smollm2): what a build adds to the bare passes, and `atlas steer` to plain generation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import atlas.building.build
from atlas.building.plan import SHARD_PROMPTS
from atlas.errors import ModelError
from atlas.models.activations import run_model, tokenize
from atlas.models.embeddings import embed_frame
from atlas.models.encoders import Encoder, load_encoder
from atlas.models.loading import LanguageModel, load_language_model
from atlas.models.places import find_model
from atlas.models.saes import LoadedSae, load_sae
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts import bundled
from atlas.texts.prompts import TextSet, collect_texts

from .building import BATCH
from .measure import Figure, Setting, Unavailable, figure

BUNDLE = bundled.BUNDLES["smollm2"]
PROMPTS = 1200
TOPIC, OPENING, NEW_TOKENS = "medicine", "I want to tell you about", 40
PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, opening, count = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer(opening, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=int(count), do_sample=False)[0]))
"""


def build_smollm2(setting: Setting) -> Iterator[Figure]:
    """A build with both SAEs against the forward passes of model, SAEs and encoder alone."""
    model, saes, encoder, prompts = _load(), _saes(), load_encoder(), _prompts()
    seconds = setting.time_all(
        {
            "build": lambda: _build(setting.folder / "build.atlas", prompts, model, saes, encoder),
            "bare": lambda: _run_bare(model, saes, encoder, prompts),
        }
    )
    yield figure(f"build of {PROMPTS:,} prompts, two SAEs", seconds["build"], "s")
    yield figure("build / bare forward passes", seconds["build"] / seconds["bare"], at_most=1.25)


def steer_smollm2(setting: Setting) -> Iterator[Figure]:
    """`atlas steer` as a process, from its second call on, against a script that loads the plain model and generates."""
    path, encoder = setting.folder / "steer.atlas", load_encoder()
    _build(path, _prompts(), _load(), _saes(), encoder)
    score_topics(Store(path), {TOPIC: bundled.read_topics()[TOPIC]}, embed=lambda texts: embed_frame(encoder, texts))
    steer = ("-m", "atlas.cli.main", "steer", str(path), TOPIC, OPENING, "--max-new-tokens", str(NEW_TOKENS))
    folder = find_model(BUNDLE.model)
    _run(*steer)  # which fits the strength, and stores it
    seconds = setting.time_all(
        {"steer": lambda: _run(*steer), "plain": lambda: _run("-c", PLAIN, folder, OPENING, str(NEW_TOKENS))}
    )
    yield figure(f"atlas steer, {NEW_TOKENS} tokens", seconds["steer"], "s")
    yield figure(
        "atlas steer / loading the plain model and generating", seconds["steer"] / seconds["plain"], at_most=1.5
    )


def _load() -> LanguageModel:
    try:
        return load_language_model(BUNDLE.model)
    except ModelError as error:
        raise Unavailable(str(error)) from error


def _saes() -> dict[str, LoadedSae]:
    return {name: load_sae(str(BUNDLE.saes), name) for name in bundled.sae_ids(BUNDLE.saes)}


def _prompts() -> TextSet:
    texts = bundled.read_prompts(BUNDLE).texts
    return collect_texts(texts[:: len(texts) // PROMPTS][:PROMPTS])


def _build(path: Path, prompts: TextSet, model: LanguageModel, saes: dict[str, LoadedSae], encoder: Encoder) -> None:
    """A build with everything loaded already."""
    loaders: dict[str, Any] = {
        "load_language_model": lambda *a, **k: model,
        "load_encoder": lambda *a, **k: encoder,
        "load_sae": lambda release, name, **k: saes[name],
    }
    path.unlink(missing_ok=True)
    with patch.multiple(atlas.building.build, **loaders):
        atlas.building.build.build_atlas(
            path, prompts, model=BUNDLE.model, saes=[(str(BUNDLE.saes), name) for name in saes]
        )


def _run_bare(model: LanguageModel, saes: dict[str, LoadedSae], encoder: Encoder, prompts: TextSet) -> None:
    """The forward passes over the batches of a build, and nothing else."""
    given = list(saes.values())
    ids, _ = tokenize(model, prompts.texts, prepend_bos=given[0].prepend_bos)
    for first in range(0, len(ids), SHARD_PROMPTS):
        shard = sorted(ids[first : first + SHARD_PROMPTS], key=len)
        encoder.embed(prompts.texts[first : first + SHARD_PROMPTS])
        for start in range(0, len(shard), BATCH):
            caught = run_model(model, shard[start : start + BATCH], [sae.hook_name for sae in given])
            for sae in given:
                for row in caught[sae.hook_name]:
                    sae.codec.encode(row)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
