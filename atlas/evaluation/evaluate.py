"""Evaluate a topic's neurons and the text they steer, with intervals and controls (method: section 6, points 1 to 3).

One evaluation is several runs: one per method or control, and one for detection. Every generated text and every figure is
stored, so that a new metric can be measured on old texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from atlas.contrast.vectors import vector_ids
from atlas.errors import AtlasError, UnknownName
from atlas.evaluation.controls import CONTROLS, PERMUTATIONS, control_target, control_vectors
from atlas.evaluation.detection import BEST, detect, detect_at_random, measure_activity
from atlas.evaluation.figures import ALIGNED, AT_RANDOM, SCORED, STRAWMAN, UNALIGNED, Figure
from atlas.evaluation.intervals import Interval, mean_interval
from atlas.evaluation.layer_level import layer_figures
from atlas.evaluation.metrics import make_judge, measure
from atlas.evaluation.runs import BASELINES, MethodSetting, Run, compare, store_runs, table
from atlas.models.encoders import check_encoder, load_encoder
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.steering.calibrations import Purpose, purpose_of
from atlas.steering.generation import Sampling, generate_in_turn
from atlas.steering.methods import METHODS, SteeredSae, settle_options
from atlas.steering.prepare import check_sources
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.signals import ensure_signals
from atlas.steering.targets import load_steered_saes
from atlas.store.file import Store
from atlas.store.keeping import show_nobody, storing
from atlas.store.session import Asks
from atlas.store.state import find_sae_keys, require_complete
from atlas.store.waiting import patient


@dataclass(frozen=True)
class EvaluationSet:
    """What an evaluation runs on; nothing of it may be among the topic's own texts.

    Attributes:
        held_out: texts about the topic.
        unaligned: everyday texts about nothing of the kind.
        others: texts about other topics; may be empty.
        prompts: neutral openings to generate from.
    """

    held_out: Sequence[str]
    unaligned: Sequence[str]
    prompts: Sequence[str]
    others: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, texts in (("held-out text", self.held_out), ("prompt to generate from", self.prompts)):
            if not texts:
                raise AtlasError(f"there is no {name} to evaluate on: give at least one")


@dataclass(frozen=True)
class EvaluationConfig:
    """What two evaluations must share to be comparable.

    Attributes:
        samples: texts per prompt, each with a seed of its own that is the same for every method.
        scorer: whose scores steer.
        select: key of atlas.steering.selection.RULES.
        keep_error: see Steering; the baseline `sae` drops the error always, it would be `original` otherwise.
        positions: see Steering.
        sampling: the same for every method; its seed is the first.
    """

    samples: int = 3
    scorer: str = SteeringSettings.scorer
    select: str = SteeringSettings.select
    keep_error: bool = SteeringSettings.keep_error
    positions: str = SteeringSettings.positions
    sampling: Sampling = Sampling(max_new_tokens=64)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise AtlasError(f"samples {self.samples} is below 1: give the number of texts per prompt")
        self.conditions()  # says which names are unknown

    def conditions(self) -> SteeringSettings:
        """What every method shares, and a picked strength holds under."""
        return SteeringSettings(self.scorer, self.select, self.keep_error, self.positions)

    def flat(self) -> dict[str, Any]:
        """As it is stored: one level of names."""
        values = asdict(self)
        return {**values, **values.pop("sampling")}


class Examiner:
    """A topic's steered model with everything its texts are measured by, loaded once.

    Args:
        store: a finished atlas.
        topic: a scored topic.
        data: what to run on.
        config: how to run.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        recorded: the loaded model and SAEs.
        encoder: the atlas's sentence encoder, when it is loaded already.
        models: models to generate with under a method's name, such as {"finetuned": model}.
        vectors: behaviours whose contrastive vectors are added up, for the methods that steer by them.
    """

    def __init__(
        self,
        store: Store,
        topic: str,
        data: EvaluationSet,
        config: EvaluationConfig = EvaluationConfig(),
        *,
        sae_ids: Sequence[str | int] | None = None,
        recorded: RecordedModels | None = None,
        encoder: Any = None,
        models: Mapping[str, Any] | None = None,
        vectors: Sequence[str] = (),
    ) -> None:
        recorded = recorded or RecordedModels(store)
        self.recorded = recorded
        keys = find_sae_keys(store, sae_ids)
        self.store, self.topic, self.data, self.config = store, topic, data, config
        ensure_signals(recorded, topic, config.select, keys)
        self.layers, self.scoring_ids, self.rows = load_steered_saes(
            recorded, topic, keys, scorer=config.scorer, select=config.select, vectors=vectors
        )
        self.model, self.tokenizer = recorded.model
        self.prepend_bos = bool(self.rows[0]["prepend_bos"])
        self.models, self.vectors = dict(models or {}), tuple(vectors)
        self.encoder = encoder or load_encoder(recorded.recorded_encoder)
        with store.read() as session:
            check_encoder(self.encoder, require_complete(session, store))
            self.topic_texts = session.ask("topic_texts", topic=topic)["text"].to_list()
            self.columns = [session.ask("matching_columns", sae_key=row["sae_key"]) for row in self.rows]
        overlap = sorted(set(self.topic_texts) & set(data.held_out))
        if overlap:
            raise AtlasError(
                f"{len(overlap)} held-out texts are among the topic's own, such as {overlap[0][:60]!r}: leave them out"
            )
        self.judge = make_judge(
            self.model,
            self.tokenizer,
            self.encoder,
            prepend_bos=self.prepend_bos,
            topic=self.topic_texts,
            held_out=data.held_out,
        )
        self.sae_keys = [row["sae_key"] for row in self.rows]

    def parameters(self) -> dict[str, Any]:
        """What all runs share, as it is stored."""
        return {**self.config.flat(), "sae_keys": self.sae_keys, "vectors": list(self.vectors)}

    def purpose(self, session: Asks, setting: MethodSetting) -> Purpose:
        """What a strength of a method would be picked for."""
        return purpose_of(
            session, setting.method, setting.options, self.config.conditions(), topic=self.topic,
            sae_keys=self.sae_keys, vectors=self.vectors,
        )  # fmt: skip

    def run(self, setting: MethodSetting) -> Run:
        """Generate from every prompt under a method, and measure.

        A control moves the scores or the vector anew for every PERMUTATIONS-th prompt.
        """
        config = self.config
        if setting.method not in self.models and setting.method == "finetuned":
            raise AtlasError("method finetuned has no model to generate with: give Examiner one in `models`")
        prompts = [prompt for prompt in self.data.prompts for _ in range(config.samples)]
        given = prompts
        if setting.method == "prefix":
            given = [f"{self.topic_texts[i % len(self.topic_texts)]} {prompt}" for i, prompt in enumerate(prompts)]
        permutations = 1 if setting.control is None else PERMUTATIONS
        texts = generate_in_turn(
            self.models.get(setting.method, self.model),
            self.tokenizer,
            given,
            [self._controlled(setting, number) for number in range(permutations)],
            method=setting.method if setting.method in METHODS else "original",
            options=setting.options,
            keep_error=config.keep_error and setting.method != "sae",
            positions=config.positions,
            prepend_bos=self.prepend_bos,
            sampling=config.sampling,
            seeds=[config.sampling.seed + i for i in range(len(given))],
        )
        run = Run(setting)
        run.generations = [
            replace(text, method=setting.name, prompt=prompt) for text, prompt in zip(texts, prompts, strict=True)
        ]
        run.values = measure(self.judge, run.generations)
        method = METHODS.get(setting.method)
        if method is not None and method.edit is not None:
            run.scoring_ids = self.scoring_ids
        if method is not None and method.vector is not None:
            with self.store.read() as session:
                run.vector_ids = vector_ids(session, self.vectors, self.sae_keys, method.vector)
        return run

    def detection(self) -> Run:
        """AUROC of held-out texts by the best neurons: as selected, by other rankings, and at random."""
        run = Run(MethodSetting("detection"))
        rankings = self._rankings()
        others = {"everyday": self.data.unaligned, "topics": self.data.others}
        for i, (layer, row) in enumerate(zip(self.layers, self.rows, strict=True)):
            texts = measure_activity(
                self.model, self.tokenizer, layer, self.data.held_out, others, prepend_bos=self.prepend_bos
            )
            support = self.columns[i]["support"].to_numpy()
            sae_id = "" if len(self.rows) == 1 else row["sae_id"]
            for ranking, ranked in rankings.items():
                for metric, area in detect(texts, ranked[i][:BEST]).items():
                    run.figures[Figure(metric, ranking=ranking, sae_id=sae_id)] = area
            scored, best = rankings[SCORED if SCORED in rankings else ""][i], rankings[""][i][:BEST]
            for metric, area in detect_at_random(texts, support, scored, best, self.config.sampling.seed).items():
                run.figures[Figure(metric, ranking=AT_RANDOM, sae_id=sae_id)] = area
        return run

    def _rankings(self) -> dict[str, list[np.ndarray]]:
        """What a ranking is called in the figures -> neurons per SAE, best first."""
        found = {"": [layer.target.best.cpu().numpy() for layer in self.layers]}
        for name, scorer in ((SCORED, "distance"), (STRAWMAN, "strawman")):
            if (self.config.scorer, self.config.select) == (scorer, "score"):
                continue
            with self.store.read() as session:
                scored = set(session.ask("current_scorings", topic=self.topic, scorer=scorer)["sae_key"])
            if not set(self.sae_keys) <= scored:
                continue
            layers = load_steered_saes(self.recorded, self.topic, self.sae_keys, scorer=scorer, select="score").saes
            found[name] = [layer.target.best.cpu().numpy() for layer in layers]
        return found

    def layer_level(self, setting: MethodSetting) -> dict[Figure, Interval]:
        """What a method that edits the code does to held-out and to unaligned texts (first SAE)."""
        found = {}
        layer = self._controlled(setting)[0]
        for name, texts in ((ALIGNED, self.data.held_out), (UNALIGNED, self.data.unaligned)):
            figures = layer_figures(
                self.model, self.tokenizer, layer, texts, setting.method, setting.options, prepend_bos=self.prepend_bos
            )
            for column, values in asdict(figures).items():
                mean = mean_interval(values[~np.isnan(values)])
                if mean is not None:
                    found[Figure(column, texts=name)] = mean
        return found

    def _controlled(self, setting: MethodSetting, number: int = 0) -> list[SteeredSae]:
        """The layers, under the control's permutation of that number."""
        if setting.control is None:
            return self.layers
        layers = []
        for layer, columns in zip(self.layers, self.columns, strict=True):
            support, norm = columns["support"].to_numpy(), columns["decoder_norm"].to_numpy()
            move = control_target if METHODS[setting.method].vector is None else control_vectors
            seed = self.config.sampling.seed + number
            layers.append(replace(layer, target=move(layer.target, setting.control, support, norm, seed)))
        return layers


def evaluate(
    examiner: Examiner,
    methods: Sequence[MethodSetting],
    *,
    progress: Progress = silent,
    show: Callable[[pl.DataFrame], None] = show_nobody,
) -> pl.DataFrame:
    """Generate under every method and its controls, measure, and store; a warning when that fails.

    Args:
        examiner: a topic's steered model.
        methods: each scored one is joined by its controls; `original` and `sae` always take part.
        progress: called with (stage, done, total).
        show: called with what is returned before it is stored.

    Returns:
        A row per method and figure: method, name, value, low, high (95 %, paired by prompt).
    """
    settings = with_controls(methods)
    check_sources(examiner.topic, [one.method for one in settings if one.method in METHODS], examiner.vectors)
    with patient():
        every = _examine(examiner, settings, progress)
    found = table(every)
    show(found)
    with storing("these texts and figures", examiner.store.path):
        store_runs(examiner.store, examiner.topic, every, examiner.parameters())
    return found


def _examine(examiner: Examiner, settings: Sequence[MethodSetting], progress: Progress) -> list[Run]:
    """The runs of the settings, compared, after that of detection."""
    runs = []
    for done, setting in enumerate(settings):
        progress("generating", done, len(settings))
        runs.append(examiner.run(setting))
    progress("generating", len(settings), len(settings))
    compare(runs, examiner.data.prompts)
    progress("what the neurons find", 0, 0)
    for run in runs:
        if edits_code(run.setting):
            run.figures |= examiner.layer_level(run.setting)
    return [examiner.detection(), *runs]


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
