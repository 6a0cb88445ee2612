"""Steer by the scores in the store: read them, load the SAEs, generate, keep what was generated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.errors import AtlasError
from atlas.generate import Generation, Sampling, generate
from atlas.methods import METHODS, Options, settle_options, takes
from atlas.probe import ensure_signals
from atlas.progress import Progress, silent
from atlas.selection import DEFAULT_RULE
from atlas.steerer import Steerer
from atlas.steering import check_positions
from atlas.store import Session, now
from atlas.vectors import vector_ids

if TYPE_CHECKING:
    from atlas.api import Atlas

KEEP_ERROR = True  # what evaluation showed to be better; the papers' own arithmetic drops the error


def steer_prompts(
    atlas: Atlas,
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
    steerer: Steerer | None = None,
    sampling: Sampling = Sampling(),
    save: bool = True,
    progress: Progress = silent,
) -> list[Generation]:
    """Go on with each prompt under each method, and store texts and figures in the atlas.

    Args:
        atlas: an open atlas.
        topic: a scored topic; None for methods that need none.
        prompts: what the model is given.
        methods: keys of METHODS.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        settings: fields of Options; each method takes those it has, and one that no method has is an error.
        vectors: behaviours whose contrastive vectors are added up, for the methods that steer by them.
        scorer: whose scores.
        select: key of atlas.selection.RULES.
        keep_error: see Steering.
        positions: see Steering.
        calibrated: where no strength is given, whether to take the one that `atlas evaluate --calibrate` picked.
        steerer: the loaded model and SAEs; None loads them from where they were at build.
        sampling: the same for every method and prompt.
        save: whether to store the generations.
        progress: called with (stage, done, total).
    """
    options = {method: options_for(method, settings, methods) for method in methods}
    check_positions(positions)
    check_sources(topic, methods, vectors)
    progress("loading SAEs and model", 0, 0)
    keys = None if sae_ids is None else [atlas.sae_key(one) for one in sae_ids]
    steerer = steerer or Steerer(atlas.store)
    ensure_signals(steerer, topic, select, keys, progress=progress)
    layers, scoring_ids, rows = steerer.layers(topic, keys, scorer=scorer, select=select, vectors=vectors)
    chosen_keys = [row["sae_key"] for row in rows]
    if calibrated and settings.get("strength") is None:
        shared = {"scorer": scorer, "select": select, "keep_error": keep_error, "positions": positions}
        with atlas.store.read() as session:
            for method, chosen in options.items():
                if METHODS[method].vector:
                    continue  # strengths are picked for topics
                picked = calibrated_strength(session, topic, chosen_keys, method, chosen, shared)
                options[method] = chosen if picked is None else replace(chosen, strength=picked)
    model, tokenizer = steerer.model
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
    if save:
        shared = {
            "scorer": scorer,
            "select": select,
            "keep_error": keep_error,
            "positions": positions,
            **asdict(sampling),
        }
        parameters = {method: {**asdict(options[method]), **shared} for method in methods}
        with atlas.store.write() as session:
            ids = {
                method: vector_ids(session, vectors, chosen_keys, used) if (used := METHODS[method].vector) else []
                for method in methods
            }
            store_generations(session, results, scoring_ids, parameters, vector_ids=ids)
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


def conditions(options: Options, shared: Mapping[str, Any]) -> str:
    """What a picked strength holds under, as JSON: every setting of the method and the run but the strength itself."""
    settings = {name: value for name, value in asdict(options).items() if name != "strength"}
    return json.dumps({**settings, **shared}, sort_keys=True)


def calibrated_strength(
    session: Session,
    topic: str | None,
    sae_keys: Sequence[int],
    method: str,
    options: Options,
    shared: Mapping[str, Any],
) -> float | None:
    """The strength picked last for a topic and method under these conditions; None when there is none.

    Args:
        shared: scorer, select, keep_error and positions.
    """
    found = session.value(
        "calibrated_strength",
        topic=topic,
        sae_keys=list(sae_keys),
        method=method,
        parameters=conditions(options, shared),
    )
    return None if found is None else float(found)


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


def store_generations(
    session: Session,
    generations: Sequence[Generation],
    scoring_ids: Sequence[int],
    parameters: dict[str, dict[str, Any]],
    *,
    run_id: int | None = None,
    vector_ids: Mapping[str, Sequence[int]] | None = None,
) -> list[int]:
    """Append to `generations` and `metrics`; the new ids. `parameters` (kept as JSON) and `vector_ids` are per method."""
    first = session.value("next_generation_id")
    ids = list(range(first, first + len(generations)))
    unsteered = [name for name, method in METHODS.items() if not method.edit]
    session.append(
        "generations",
        pl.DataFrame(
            {
                "generation_id": pl.Series(ids, dtype=pl.UInt32),
                "run_id": pl.Series([run_id] * len(ids), dtype=pl.UInt32),
                "scoring_ids": pl.Series(
                    [[] if g.method in unsteered else list(scoring_ids) for g in generations],
                    dtype=pl.List(pl.UInt32),
                ),
                "vector_ids": pl.Series(
                    [list((vector_ids or {}).get(g.method, [])) for g in generations], dtype=pl.List(pl.UInt32)
                ),
                "method": [g.method for g in generations],
                "parameters": [json.dumps(parameters[g.method]) for g in generations],
                "prompt": [g.prompt for g in generations],
                "text": [g.text for g in generations],
                "seed": pl.Series([g.seed for g in generations], dtype=pl.UInt64),
                "created_at": [now()] * len(generations),
            }
        ),
    )
    rows = [
        (run_id, generation_id, name, getattr(generation, name))
        for generation_id, generation in zip(ids, generations, strict=True)
        for name in ("contamination", "kept", "new", "dropped")
        if getattr(generation, name) is not None
    ]
    columns = {"run_id": pl.UInt32, "generation_id": pl.UInt32, "name": pl.String, "value": pl.Float64}
    session.append("metrics", pl.DataFrame(rows, schema=columns, orient="row"))
    return ids
