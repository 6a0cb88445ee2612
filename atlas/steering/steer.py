"""Go on with prompts under several steering methods, and keep what was generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from atlas.progress import Progress, silent
from atlas.steering.calibrations import store_strength
from atlas.steering.default_strength import RULE
from atlas.steering.generation import Generation, Sampling, generate
from atlas.steering.generations import Source, store_generations
from atlas.steering.methods import METHODS
from atlas.steering.prepare import PreparedSteering
from atlas.store.keeping import show_nobody, storing


def steer_prompts(
    prepared: PreparedSteering,
    prompts: Sequence[str],
    *,
    sampling: Sampling = Sampling(),
    save: bool = True,
    progress: Progress = silent,
    show: Callable[[list[Generation]], None] = show_nobody,
) -> list[Generation]:
    """Go on with each prompt under each method, and store texts and figures in the atlas; a warning when that fails.

    Args:
        prepared: what steers, and by which methods.
        prompts: what the model is given.
        sampling: the same for every method and prompt.
        save: whether to store the generations.
        progress: called with (stage, done, total).
        show: called with the generations before they are stored.
    """
    results: list[Generation] = []
    for done, (method, options) in enumerate(prepared.options.items()):
        progress("generating", done * len(prompts), len(prepared.options) * len(prompts))
        texts = generate(prepared.model, prompts, prepared.steering(method), sampling=sampling)
        results += [replace(text, strength=options.strength) for text in texts]
    progress("generating", len(results), len(results))
    if prepared.topic is None and not prepared.chosen:  # scores of 1 say nothing about purity
        results = [replace(result, contamination=None) for result in results]
    show(results)
    if save:
        with storing("these texts", prepared.recorded.store.path):
            store_steered(prepared, results, sampling)
    return results


def store_steered(prepared: PreparedSteering, results: Sequence[Generation], sampling: Sampling) -> None:
    """Store texts, with what steered them and the strengths fitted for them; StoreError when that fails."""
    shared = {**prepared.settings.stored(), **asdict(sampling)}
    if prepared.chosen:
        shared["chosen"] = {str(key): list(neurons) for key, neurons in prepared.chosen.items()}
    if prepared.list_name is not None:
        shared["list"] = prepared.list_name
    with prepared.recorded.store.write() as session:
        sources = {
            method: Source(
                {**asdict(options), **shared},
                prepared.scoring_ids if METHODS[method].edit else [],
                prepared.vector_ids(session, method),
            )
            for method, options in prepared.options.items()
        }
        store_generations(session, results, sources)
        for method, strength in prepared.fits.items():
            store_strength(session, prepared.fit_key(session, method), strength, RULE)
