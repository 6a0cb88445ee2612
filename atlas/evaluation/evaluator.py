"""A topic's steered model with everything that its texts are measured by: one run per method (method: section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from atlas.errors import AtlasError
from atlas.evaluation.controls import PERMUTATIONS, controlled_saes
from atlas.evaluation.detection import BEST, detect, detect_at_random, measure_activity
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.figures import ALIGNED, AT_RANDOM, SCORED, STRAWMAN, UNALIGNED, Figure
from atlas.evaluation.intervals import Interval, mean_interval
from atlas.evaluation.language_judge import LanguageJudge, load_language_judge
from atlas.evaluation.layer_level import layer_figures
from atlas.evaluation.metrics import MetricInputs, make_metric_inputs, measure
from atlas.evaluation.nearest_topic import make_classifier
from atlas.evaluation.runs import MethodSetting, Run
from atlas.models.encoders import Encoder, check_encoder, load_encoder
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import special_ids
from atlas.steering.calibrations import CalibrationKey
from atlas.steering.generation import Sampling, generate_in_turn
from atlas.steering.intervention import Steering
from atlas.steering.methods import METHODS, SteeredSae
from atlas.steering.prepare import PreparedSteering, prepare_steering
from atlas.steering.settings import SteeringSettings, without_chat
from atlas.steering.targets import load_steered_saes
from atlas.store.file import Store
from atlas.store.session import Asks
from atlas.store.state import require_complete


@dataclass(frozen=True)
class EvaluationConfig:
    """What two evaluations must share to be comparable.

    Attributes:
        samples: texts per prompt, each with a seed of its own that is the same for every method.
        scorer: see SteeringSettings, as the three that follow.
        select: which neurons steer.
        keep_error: whether methods keep it; the baseline `sae` drops the error always, it would be `original` otherwise.
        positions: which tokens are steered.
        sampling: the same for every method; its seed is the first.
        chat: whether prompts are a user's messages in the model's chat template.
        system: the system message before them.
    """

    samples: int = 3
    scorer: str = SteeringSettings.scorer
    select: str = SteeringSettings.select
    keep_error: bool = SteeringSettings.keep_error
    positions: str = SteeringSettings.positions
    sampling: Sampling = Sampling(max_new_tokens=64)
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise AtlasError(f"samples {self.samples} is below 1: give the number of texts per prompt")
        self.conditions()  # says which names are unknown

    def conditions(self) -> SteeringSettings:
        """What every method shares, and a picked strength holds under."""
        return SteeringSettings(self.scorer, self.select, self.keep_error, self.positions, self.chat, self.system)

    def flat(self) -> dict[str, Any]:
        """As it is stored: one level of names."""
        values = asdict(self) if self.chat else without_chat(asdict(self))
        return {**values, **values.pop("sampling")}


@dataclass(frozen=True)
class TopicEvaluator:
    """A topic's steered model with everything its texts are measured by; made by `prepare_evaluator`.

    Attributes:
        store: the atlas.
        topic: the topic.
        steering: the SAEs with what steers at them.
        data: what to run on.
        config: how to run.
        topic_texts: the texts that the topic is scored by.
        columns: per SAE what a control is matched by: support and decoder norm of every neuron.
        metric_inputs: what the metrics of a text need.
        models: models to generate with under a method's name, such as {"finetuned": model}.
    """

    store: Store
    topic: str
    steering: PreparedSteering
    data: EvaluationSet
    config: EvaluationConfig
    topic_texts: list[str]
    columns: list[pl.DataFrame]
    metric_inputs: MetricInputs
    models: Mapping[str, Any] = field(default_factory=dict)

    @property
    def saes(self) -> list[SteeredSae]:
        """The SAEs that are steered at once."""
        return self.steering.saes

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The SAEs' rows in `saes`."""
        return self.steering.rows

    @property
    def loaded(self) -> LoadedModel:
        """The language model, its texts beginning as the SAEs want it."""
        return self.steering.model

    @property
    def model(self) -> Any:
        """The language model."""
        return self.loaded.transformer

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.loaded.tokenizer

    def with_config(self, config: EvaluationConfig) -> TopicEvaluator:
        """The same under another configuration, the neurons selected anew."""
        before = self.steering
        steering = prepare_steering(
            before.recorded,
            self.topic,
            settings=config.conditions(),
            vectors=before.vectors,
            sae_ids=before.sae_keys,
        )
        return replace(self, config=config, steering=steering)

    def parameters(self) -> dict[str, Any]:
        """What all runs share, as it is stored."""
        shared = {**self.config.flat(), "sae_keys": self.steering.sae_keys, "vectors": list(self.steering.vectors)}
        return {**shared, **self.metric_inputs.describe()}

    def calibration_key(self, session: Asks, setting: MethodSetting) -> CalibrationKey:
        """What a strength of a method would be picked for."""
        return self.steering.calibration_key(session, setting.method, setting.options)

    def run(self, setting: MethodSetting) -> Run:
        """Generate from every prompt under a method, and measure.

        A control moves the scores or the vector anew for every PERMUTATIONS-th prompt.

        Raises:
            AtlasError: the method is finetuned, and there is no such model.
        """
        config = self.config
        if setting.method not in self.models and setting.method == "finetuned":
            raise AtlasError("method finetuned has no model to generate with: give one in `models`")
        prompts = [prompt for prompt in self.data.prompts for _ in range(config.samples)]
        given = prompts
        if setting.method == "prefix":
            given = [f"{self.topic_texts[i % len(self.topic_texts)]} {prompt}" for i, prompt in enumerate(prompts)]
        permutations = 1 if setting.control is None else PERMUTATIONS
        model = replace(self.loaded, transformer=self.models.get(setting.method, self.model))
        steerings = [
            Steering(
                model.transformer,
                self._controlled(setting, number),
                method=setting.method if setting.method in METHODS else "original",
                options=setting.options,
                keep_error=config.keep_error and setting.method != "sae",
                positions=config.positions,
                special_ids=special_ids(model.tokenizer),
            )
            for number in range(permutations)
        ]
        seeds = [config.sampling.seed + i for i in range(len(given))]
        texts = generate_in_turn(model, given, steerings, sampling=config.sampling, seeds=seeds)
        run = Run(setting)
        run.generations = [
            replace(text, method=setting.name, prompt=prompt) for text, prompt in zip(texts, prompts, strict=True)
        ]
        run.values = measure(self.metric_inputs, run.generations)
        method = METHODS.get(setting.method)
        if method is not None and method.edit is not None:
            run.scoring_ids = self.steering.scoring_ids
        if method is not None and method.vector is not None:
            with self.store.read() as session:
                run.vector_ids = self.steering.vector_ids(session, setting.method)
        return run

    def detection(self) -> Run:
        """AUROC of held-out texts by the best neurons: as selected, by other rankings, and at random."""
        run = Run(MethodSetting("detection"), figures=self.metric_inputs.own_figures())
        rankings = self._rankings()
        others = {"everyday": self.data.unaligned, "topics": self.data.other_texts}
        for i, (sae, row) in enumerate(zip(self.saes, self.rows, strict=True)):
            texts = measure_activity(self.loaded, sae, self.data.held_out, others)
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
        found = {"": [sae.target.best.cpu().numpy() for sae in self.saes]}
        keys = self.steering.sae_keys
        for name, scorer in ((SCORED, "distance"), (STRAWMAN, "strawman")):
            if (self.config.scorer, self.config.select) == (scorer, "score"):
                continue
            with self.store.read() as session:
                scored = set(session.ask("current_scorings", topic=self.topic, scorer=scorer)["sae_key"])
            if not set(keys) <= scored:
                continue
            saes = load_steered_saes(self.steering.recorded, self.topic, keys, scorer=scorer, select="score").saes
            found[name] = [sae.target.best.cpu().numpy() for sae in saes]
        return found

    def layer_level(self, setting: MethodSetting) -> dict[Figure, Interval]:
        """What a method that edits the code does to held-out and to unaligned texts (first SAE)."""
        found = {}
        sae = self._controlled(setting)[0]
        for name, texts in ((ALIGNED, self.data.held_out), (UNALIGNED, self.data.unaligned)):
            figures = layer_figures(self.loaded, sae, texts, setting.method, setting.options)
            for metric, values in asdict(figures).items():
                mean = mean_interval(values[~np.isnan(values)])
                if mean is not None:
                    found[Figure(metric, texts=name)] = mean
        return found

    def _controlled(self, setting: MethodSetting, number: int = 0) -> list[SteeredSae]:
        """The SAEs, their scores or vectors moved by the control's permutation of that number."""
        if setting.control is None:
            return self.saes
        seed = self.config.sampling.seed + number
        return controlled_saes(self.saes, self.columns, setting.method, setting.control, seed)


def prepare_evaluator(
    store: Store,
    topic: str,
    data: EvaluationSet,
    config: EvaluationConfig = EvaluationConfig(),
    *,
    sae_ids: Sequence[str | int] | None = None,
    recorded: RecordedModels | None = None,
    encoder: Encoder | None = None,
    models: Mapping[str, Any] | None = None,
    vectors: Sequence[str] = (),
    judge: str | LanguageJudge | None = None,
) -> TopicEvaluator:
    """Load a topic's scores, SAEs, models and classifier; a topic that lacks a signal of the selection rule is scored for it.

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
        judge: a language model that judges acceptability, best one that did not write the texts; None for none.

    Raises:
        UnknownName: no such topic, SAE or vector.
        AtlasError: a held-out text is among the topic's own, or the rule needs a signal that is not there.
        StoreError: the topic's scores are stale, an SAE has changed, or the encoder is another one.
        ModelError: the model, an SAE or the encoder is gone.
    """
    recorded = recorded or RecordedModels(store)
    steering = prepare_steering(recorded, topic, settings=config.conditions(), vectors=vectors, sae_ids=sae_ids)
    if steering.list_name is not None:
        raise AtlasError(
            f"{topic!r} is a list of neurons, which has no texts to measure by: steer with it, or score a topic and name that"
        )
    encoder = encoder or load_encoder(recorded.recorded_encoder)
    with store.read() as session:
        check_encoder(encoder, require_complete(session, store))
        topic_texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        columns = [session.ask("matching_columns", sae_key=key) for key in steering.sae_keys]
    overlap = sorted(set(topic_texts) & set(data.held_out))
    if overlap:
        raise AtlasError(
            f"{len(overlap)} held-out texts are among the topic's own, such as {overlap[0][:60]!r}: leave them out"
        )
    metric_inputs = make_metric_inputs(
        steering.model,
        encoder,
        topic=topic_texts,
        held_out=data.held_out,
        language=load_language_judge(recorded, judge, device=recorded.device) if isinstance(judge, str) else judge,
        classifier=make_classifier(encoder, topic, data.held_out, data.by_topic),
    )
    return TopicEvaluator(store, topic, steering, data, config, topic_texts, columns, metric_inputs, dict(models or {}))
