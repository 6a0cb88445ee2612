"""Benchmarks of SmolLM2 (see data/smollm2): what a build adds to the bare passes, and `atlas steer` to plain generation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from atlas.errors import ModelError
from atlas.models.embeddings import embed_frame
from atlas.models.loading import load_language_model
from atlas.models.places import find_model
from atlas.models.saes import load_sae
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts import bundled
from atlas.texts.prompts import TextSet, collect_texts

from .building import TOPIC, Loaded, build_loaded, encoder, run_bare, run_python
from .measure import Figure, Setting, Unavailable, figure

BUNDLE = bundled.BUNDLES["smollm2"]
PROMPTS = 1200
OPENING, NEW_TOKENS = "I want to tell you about", 40
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
    loaded, prompts = _load(), _prompts()
    seconds = setting.time_all(
        {
            "build": lambda: build_loaded(setting.folder / "build.atlas", prompts, loaded),
            "bare": lambda: run_bare(loaded, prompts),
        }
    )
    yield figure(f"build of {PROMPTS:,} prompts, two SAEs", seconds["build"], "s")
    yield figure("build / bare forward passes", seconds["build"] / seconds["bare"], at_most=1.25)


def steer_smollm2(setting: Setting) -> Iterator[Figure]:
    """`atlas steer` as a process, from its second call on, against a script that loads the plain model and generates."""
    path, loaded = setting.folder / "steer.atlas", _load()
    build_loaded(path, _prompts(), loaded)
    score_topics(Store(path), {TOPIC: bundled.read_topics()[TOPIC]}, embed=partial(embed_frame, loaded.encoder))
    steer = ("-m", "atlas.cli.main", "steer", str(path), TOPIC, OPENING, "--max-new-tokens", str(NEW_TOKENS))
    folder = find_model(BUNDLE.model)
    run_python(*steer)  # which fits the strength, and stores it
    seconds = setting.time_all(
        {
            "steer": lambda: run_python(*steer),
            "plain": lambda: run_python("-c", PLAIN, folder, OPENING, str(NEW_TOKENS)),
        }
    )
    yield figure(f"atlas steer, {NEW_TOKENS} tokens", seconds["steer"], "s")
    yield figure(
        "atlas steer / loading the plain model and generating", seconds["steer"] / seconds["plain"], at_most=1.5
    )


def _load() -> Loaded:
    try:
        model = load_language_model(BUNDLE.model)
    except ModelError as error:
        raise Unavailable(str(error)) from error
    saes = {name: load_sae(str(BUNDLE.saes), name) for name in bundled.sae_ids(BUNDLE.saes)}
    return Loaded(BUNDLE, model, saes, encoder())


def _prompts() -> TextSet:
    texts = bundled.read_prompts(BUNDLE).texts
    return collect_texts(texts[:: len(texts) // PROMPTS][:PROMPTS])
