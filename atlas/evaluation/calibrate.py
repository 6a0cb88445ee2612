"""How strongly to steer: a dose-response curve on prompts of its own, and a stated rule that picks a point on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from atlas.errors import AtlasError
from atlas.evaluation.evaluator import TopicEvaluator
from atlas.evaluation.runs import MethodSetting, compare, store_runs, table
from atlas.progress import Progress, silent
from atlas.steering.calibrations import store_strength
from atlas.steering.methods import METHODS, settle_options
from atlas.steering.settings import Options
from atlas.store.keeping import storing
from atlas.store.waiting import patient

DOSES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # times the method's default strength
VECTOR_DOSES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)  # of a contrastive vector, whose length says little about the text
FAR = 3.0  # times: a default that is so far from the strength fitted to the model is not tried around
RULED_BY = ("distance_topic", "perplexity", "distinct_2")
MOST_PERPLEXITY, LEAST_DISTINCT = 1.4, 0.95
RULE = (
    f"the strength with the smallest distance to the topic's texts among those with at most {MOST_PERPLEXITY} times the "
    f"perplexity and at least {LEAST_DISTINCT} times the distinct_2 of unsteered text from the same prompts, if that is closer "
    "than unsteered text"
)


def calibrate_method(
    evaluator: TopicEvaluator,
    setting: MethodSetting,
    *,
    strengths: Sequence[float] | None = None,
    progress: Progress = silent,
    show: Callable[[pl.DataFrame, float | None], object] | None = None,
) -> tuple[pl.DataFrame, float | None]:
    """Measure a method at several strengths, and store the curve and the strength that RULE picks; a warning when that fails.

    Args:
        evaluator: a topic's steered model, over prompts that no later evaluation uses.
        setting: the method; its own strength does not matter.
        strengths: None for the usual ones, see usual_strengths.
        progress: called with (stage, done, total).
        show: called with what is returned before it is stored.

    Returns:
        A row per strength and figure (columns strength, name, value, low, high; strength 0 is unsteered text), and the
        strength picked; None, and nothing is stored as picked, when every strength breaks the rule's limits.

    Raises:
        AtlasError: the method has no strength.
    """
    default = METHODS[setting.method].strength if setting.method in METHODS else None
    if default is None:
        raise AtlasError(f"method {setting.method} has no strength to calibrate: use one of {_with_strength()}")
    doses = usual_strengths(evaluator, setting, default) if strengths is None else list(strengths)
    original = MethodSetting("original", settle_options("original", Options()))
    settings = [
        replace(setting, options=settle_options(setting.method, replace(setting.options, strength=s))) for s in doses
    ]
    runs = []
    for done, one in enumerate([original, *settings]):
        progress("trying strengths", done, len(settings) + 1)
        with patient():
            runs.append(evaluator.run(one))
    for run in runs[1:]:
        compare([runs[0], run], evaluator.data.prompts)
    picked = pick([{str(figure): found.value for figure, found in run.figures.items()} for run in runs], [0.0, *doses])
    curve = pl.concat(
        [table([run]).with_columns(strength=pl.lit(dose)) for run, dose in zip(runs, [0.0, *doses], strict=True)]
    ).select("strength", "name", "value", "low", "high")
    if show is not None:
        show(curve, picked)
    with storing("this curve and the strength that it picks", evaluator.store.path):
        store_runs(evaluator.store, evaluator.topic, runs, evaluator.parameters())
        if picked is not None:
            with evaluator.store.write() as session:
                rule = RULE if METHODS[setting.method].vector is None else f"on topic {evaluator.topic!r}: {RULE}"
                store_strength(session, evaluator.calibration_key(session, settings[0]), picked, rule)
    return curve, picked


def usual_strengths(evaluator: TopicEvaluator, setting: MethodSetting, default: float) -> list[float]:
    """DOSES, or VECTOR_DOSES, times the method's default; times the one fitted to the model where that is far from it."""
    method = METHODS[setting.method]
    if method.fitted:
        fitted = evaluator.steering.fitted(setting.method, settle_options(setting.method, setting.options)).strength
        if fitted is not None and not default / FAR <= fitted <= default * FAR:
            default = fitted
    return [round(default * dose, 6) for dose in (VECTOR_DOSES if method.vector else DOSES)]


def pick(figures: Sequence[dict[str, float]], strengths: Sequence[float]) -> float | None:
    """The strength that RULE picks; the first entry is unsteered text. None when none keeps the limits.

    A strength whose texts lack a figure (they are empty, or of one token) does not keep them.
    """
    plain = figures[0]
    good = [
        (found["distance_topic"], strength)
        for found, strength in zip(figures[1:], strengths[1:], strict=True)
        if all(name in one for name in RULED_BY for one in (found, plain))
        and found["distance_topic"] < plain["distance_topic"]
        and found["perplexity"] <= MOST_PERPLEXITY * plain["perplexity"]
        and found["distinct_2"] >= LEAST_DISTINCT * plain["distinct_2"]
    ]
    return min(good)[1] if good else None


def _with_strength() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.strength is not None)
