"""Steer by the scores in the store: read them, load the SAEs, generate, keep what was generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from atlas.contrast.vectors import vector_ids
from atlas.errors import AtlasError
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.steering.calibrations import with_picked
from atlas.steering.generation import Generation, Sampling, generate
from atlas.steering.generations import Source, store_generations
from atlas.steering.intervention import check_positions
from atlas.steering.methods import METHODS, Options, settle_options, takes
from atlas.steering.selection import DEFAULT_RULE
from atlas.steering.signals import ensure_signals
from atlas.steering.targets import load_steered_saes
from atlas.store.file import Store
from atlas.store.keeping import show_nobody, storing
from atlas.store.state import find_sae_keys

KEEP_ERROR = True  # what evaluation showed to be better; the papers' own arithmetic drops the error


def steer_prompts(
    store: Store,
    topic: str | None,
    prompts: Sequence[str],
    *,
    methods: Sequence[str],
    sae_ids: Sequence[str | int] | None = None,
    settings: dict[str, Any],
    vectors: Sequence[str] = (),
    scorer: str = "distance",
    select: str = DEFAULT_RULE,
    keep_error: bool = KEEP_ERROR,
    positions: str = "all",
    calibrated: bool = True,
    recorded: RecordedModels | None = None,
    sampling: Sampling = Sampling(),
    save: bool = True,
    progress: Progress = silent,
    show: Callable[[list[Generation]], None] = show_nobody,
) -> list[Generation]:
    """Go on with each prompt under each method, and store texts and figures in the atlas; a warning when that fails.

    Args:
        store: a finished atlas.
        topic: a scored topic; None for methods that need none.
        prompts: what the model is given.
        methods: keys of METHODS.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        settings: fields of Options; each method takes those it has, and one that no method has is an error.
        vectors: behaviours whose contrastive vectors are added up, for the methods that steer by them.
        scorer: whose scores.
        select: key of atlas.steering.selection.RULES.
        keep_error: see Steering.
        positions: see Steering.
        calibrated: where no strength is given, whether to take the one that `atlas evaluate --calibrate` picked.
        recorded: the loaded model and SAEs; None loads them from where they were at build.
        sampling: the same for every method and prompt.
        save: whether to store the generations.
        progress: called with (stage, done, total).
        show: called with the generations before they are stored.
    """
    options = {method: options_for(method, settings, methods) for method in methods}
    check_positions(positions)
    check_sources(topic, methods, vectors)
    progress("loading SAEs and model", 0, 0)
    keys = find_sae_keys(store, sae_ids)
    recorded = recorded or RecordedModels(store)
    ensure_signals(recorded, topic, select, keys, progress=progress)
    layers, scoring_ids, rows = load_steered_saes(recorded, topic, keys, scorer=scorer, select=select, vectors=vectors)
    chosen_keys = [row["sae_key"] for row in rows]
    shared = {"scorer": scorer, "select": select, "keep_error": keep_error, "positions": positions}
    if calibrated and settings.get("strength") is None:
        with store.read() as session:
            for method, chosen in options.items():
                options[method] = with_picked(
                    session, method, chosen, shared, topic=topic, sae_keys=chosen_keys, vectors=vectors
                )
    model, tokenizer = recorded.model
    results: list[Generation] = []
    for done, method in enumerate(methods):
        progress("generating", done * len(prompts), len(methods) * len(prompts))
        texts = generate(
            model,
            tokenizer,
            prompts,
            layers,
            method=method,
            options=options[method],
            keep_error=keep_error,
            positions=positions,
            prepend_bos=rows[0]["prepend_bos"],
            sampling=sampling,
        )
        results += [replace(text, strength=options[method].strength) for text in texts]
    progress("generating", len(results), len(results))
    if topic is None:  # scores of 1 say nothing about purity
        results = [replace(result, contamination=None) for result in results]
    show(results)
    if save:
        parameters = {method: {**asdict(options[method]), **shared, **asdict(sampling)} for method in methods}
        with storing("these texts", store.path), store.write() as session:
            sources = {
                method: Source(
                    parameters[method],
                    scoring_ids if METHODS[method].edit else [],
                    vector_ids(session, vectors, chosen_keys, used) if (used := METHODS[method].vector) else [],
                )
                for method in methods
            }
            store_generations(session, results, sources)
    return results


def check_sources(topic: str | None, methods: Sequence[str], vectors: Sequence[str]) -> None:
    """Raise AtlasError for a method that needs a topic or a vector where there is none, or a vector that none uses."""
    for method in methods:
        if topic is None and METHODS[method].needs_scores:
            raise AtlasError(f"method {method} steers by a topic's scores: name a topic")
        if METHODS[method].vector and not vectors:
            raise AtlasError(f"method {method} steers by a contrastive vector: name one with --vector")
    if vectors and not any(METHODS[method].vector for method in methods):
        users = [name for name, method in METHODS.items() if method.vector]
        raise AtlasError(f"none of the methods {', '.join(methods)} uses a vector: add one of {', '.join(users)}")


def options_for(method: str, settings: dict[str, Any], methods: Sequence[str]) -> Options:
    """The settings a method takes, defaults filled in; AtlasError for one that none of `methods` takes."""
    for name in methods:
        settle_options(name, Options())  # says which names are unknown
    if len(methods) == 1:
        return settle_options(method, Options(**settings))
    taken = {}
    for key, value in settings.items():
        takers = [name for name in methods if takes(name, key, value)]
        if value not in (None, "own", "sae") and not takers:
            raise AtlasError(f"none of the methods {', '.join(methods)} has {key}: leave it out")
        if method in takers:
            taken[key] = value
    return settle_options(method, Options(**taken))
