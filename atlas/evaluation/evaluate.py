"""Evaluate a topic's neurons and the text they steer, with intervals and controls (method: section 6, points 1 to 3).

One evaluation is several runs: one per method or control, and one for detection. Every generated text and every figure is
stored, so that a new metric can be measured on old texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from atlas.errors import UnknownName
from atlas.evaluation.calibrate import calibrate_method
from atlas.evaluation.controls import CONTROLS
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, TopicEvaluator, prepare_evaluator
from atlas.evaluation.language_judge import LanguageJudge
from atlas.evaluation.runs import BASELINES, MethodSetting, Run, compare, store_runs, table
from atlas.models.encoders import Encoder
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.steering.methods import METHODS, settle_options
from atlas.steering.prepare import check_sources
from atlas.steering.settings import Options
from atlas.store.file import Store
from atlas.store.keeping import show_nobody, storing
from atlas.store.waiting import patient


def evaluate_topic(
    store: Store,
    topic: str,
    data: EvaluationSet,
    methods: Sequence[MethodSetting],
    *,
    config: EvaluationConfig = EvaluationConfig(),
    calibrate: bool = False,
    vectors: Sequence[str] = (),
    sae_ids: Sequence[str | int] | None = None,
    recorded: RecordedModels | None = None,
    encoder: Encoder | None = None,
    models: Mapping[str, Any] | None = None,
    judge: str | LanguageJudge | None = None,
    progress: Progress = silent,
    show: Callable[[pl.DataFrame], None] = show_nobody,
    show_curve: Callable[[str, pl.DataFrame, float | None], object] | None = None,
) -> pl.DataFrame:
    """Measure how well a topic's neurons find texts about it, and what methods do to generated text, and store it all.

    Args:
        store: a finished atlas.
        topic: a scored topic.
        data: what to run on.
        methods: each scored one is joined by its controls; `original` and `sae` always take part.
        config: how to run.
        calibrate: whether to pick each method's strength first, on every other prompt, and to evaluate on the rest.
        vectors: behaviours whose contrastive vectors are added up, for the methods that steer by them.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        recorded: the loaded model and SAEs.
        encoder: the atlas's sentence encoder, when it is loaded already.
        models: models to generate with under a method's name, such as {"finetuned": model}.
        judge: a language model that judges acceptability (metrics slor and penlp), best one that did not write the texts:
            as `--model` names one, or what load_language_judge gives; None for none.
        progress: called with (stage, done, total).
        show: called with what is returned before it is stored.
        show_curve: called with a method, its figures by strength and the strength picked (see calibrate_method).

    Returns:
        A row per method and figure: method, name, value, low, high (95 %, paired by prompt).

    Raises:
        AtlasError: there is no prompt left to evaluate on, or what prepare_evaluator raises.
    """
    first, rest = (data.prompts[0::2], data.prompts[1::2]) if calibrate else (data.prompts, data.prompts)
    halves = [replace(data, prompts=prompts) for prompts in (first, rest)]
    evaluator = prepare_evaluator(
        store,
        topic,
        halves[0],
        config,
        sae_ids=sae_ids,
        recorded=recorded,
        encoder=encoder,
        models=models,
        vectors=vectors,
        judge=judge,
    )
    if calibrate:  # the rule that picks does not ask the judging model, which may be a large one
        quick = replace(evaluator, metric_inputs=replace(evaluator.metric_inputs, language=None))
        methods = [_calibrated(quick, setting, progress, show_curve) for setting in methods]
    return evaluate_methods(replace(evaluator, data=halves[1]), methods, progress=progress, show=show)


def _calibrated(
    evaluator: TopicEvaluator,
    setting: MethodSetting,
    progress: Progress,
    show_curve: Callable[[str, pl.DataFrame, float | None], object] | None,
) -> MethodSetting:
    """The method at the strength that is picked now; as it was where it has none, or none is picked."""
    if setting.method not in METHODS or not METHODS[setting.method].strength:
        return setting
    show = None if show_curve is None else partial(show_curve, setting.method)
    _, picked = calibrate_method(evaluator, setting, progress=progress, show=show)
    return setting if picked is None else replace(setting, options=replace(setting.options, strength=picked))


def evaluate_methods(
    evaluator: TopicEvaluator,
    methods: Sequence[MethodSetting],
    *,
    progress: Progress = silent,
    show: Callable[[pl.DataFrame], None] = show_nobody,
) -> pl.DataFrame:
    """Generate under every method and its controls, measure, and store; a warning when that fails.

    Args:
        evaluator: a topic's steered model.
        methods: each scored one is joined by its controls; `original` and `sae` always take part.
        progress: called with (stage, done, total).
        show: called with what is returned before it is stored.

    Returns:
        A row per method and figure: method, name, value, low, high (95 %, paired by prompt).
    """
    settings = with_controls([_fitted(evaluator, setting) for setting in methods])
    known = [one.method for one in settings if one.method in METHODS]
    check_sources(evaluator.topic, known, evaluator.steering.vectors)
    with patient():
        every = _examine(evaluator, settings, progress)
    found = table(every)
    show(found)
    with storing("these texts and figures", evaluator.store.path):
        store_runs(evaluator.store, evaluator.topic, every, evaluator.parameters())
    return found


def _fitted(evaluator: TopicEvaluator, setting: MethodSetting) -> MethodSetting:
    """The method at the strength that is fitted to the model, where it has such a one and none is given."""
    method = METHODS.get(setting.method)
    if method is None or not method.fitted or setting.options.strength is not None:
        return setting
    settled = settle_options(setting.method, setting.options)
    return replace(setting, options=evaluator.steering.fitted(setting.method, settled))


def _examine(evaluator: TopicEvaluator, settings: Sequence[MethodSetting], progress: Progress) -> list[Run]:
    """The runs of the settings, compared, after that of detection."""
    runs = []
    for done, setting in enumerate(settings):
        progress("generating", done, len(settings))
        runs.append(evaluator.run(setting))
    progress("generating", len(settings), len(settings))
    compare(runs, evaluator.data.prompts)
    progress("what the neurons find", 0, 0)
    for run in runs:
        if edits_code(run.setting):
            run.figures |= evaluator.layer_level(run.setting)
    return [evaluator.detection(), *runs]


def edits_code(setting: MethodSetting) -> bool:
    """Whether a method edits the code; one that steers by a vector leaves it alone at strength 0."""
    method = METHODS.get(setting.method)
    return method is not None and method.has_code and not (method.vector and setting.options.strength == 0)


def with_controls(methods: Sequence[MethodSetting]) -> list[MethodSetting]:
    """The baselines, then each method followed by its controls, options settled."""
    settings = [MethodSetting(name, settle_options(name, Options())) for name in BASELINES]
    for setting in methods:
        if setting.method in BASELINES:
            continue
        if setting.method not in METHODS:
            if setting.method not in ("prefix", "finetuned"):
                raise UnknownName("method", setting.method, [*METHODS, "prefix", "finetuned"])
            settings.append(setting)
            continue
        settled = settle_options(setting.method, setting.options)
        settings.append(MethodSetting(setting.method, settled))
        settings += [MethodSetting(setting.method, settled, control) for control in CONTROLS]
    return settings
