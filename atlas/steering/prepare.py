"""Everything that steering needs, read from the store and loaded: the same for the command, Python and evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atlas.contrast.vectors import vector_ids
from atlas.errors import AtlasError
from atlas.models.agreement import unhooked_twin
from atlas.models.chat import wrap_prompts
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import special_ids
from atlas.progress import Progress, silent
from atlas.steering.calibrations import CalibrationKey, calibration_key, fit_key, picked_strength
from atlas.steering.default_strength import TEXTS, fit_strength
from atlas.steering.intervention import Steering
from atlas.steering.listed import find_source
from atlas.steering.methods import METHODS, SteeredSae, settle_options
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.signals import ensure_signals
from atlas.steering.targets import Chosen, load_steered_saes
from atlas.store.session import Asks
from atlas.store.state import find_sae_keys


@dataclass(frozen=True)
class PreparedSteering:
    """SAEs with what steers at them, and each method's settings.

    Attributes:
        recorded: the language model and the SAEs of the atlas.
        topic: the topic that steers; None where every neuron has the score 1.
        vectors: behaviours whose contrastive vectors are added up.
        settings: what all methods share.
        saes: the SAEs that are steered at once.
        scoring_ids: the topic's scorings, one per SAE.
        rows: the SAEs' rows in `saes`.
        options: method -> its settings, defaults and picked strength filled in.
        fits: method -> the strength that was fitted to the model just now, to be stored when texts are.
        chosen: the neurons that steer in a topic's stead, per SAE; None where a topic or a vector alone steers.
        list_name: the list of notes that they stand in; None where they were given by their numbers.
    """

    recorded: RecordedModels
    topic: str | None
    vectors: tuple[str, ...]
    settings: SteeringSettings
    saes: list[SteeredSae]
    scoring_ids: list[int]
    rows: list[dict[str, Any]]
    options: Mapping[str, Options] = field(default_factory=dict)
    fits: Mapping[str, float] = field(default_factory=dict)
    chosen: Chosen | None = None
    list_name: str | None = None

    @property
    def sae_keys(self) -> list[int]:
        """Keys of the SAEs."""
        return [row["sae_key"] for row in self.rows]

    @property
    def model(self) -> LoadedModel:
        """The language model, its texts beginning as the SAEs want it."""
        model = self.recorded.read_as(self.rows[0])
        return replace(model, chat=self.settings.chat, system=self.settings.system)

    def calibration_key(self, session: Asks, method: str, options: Options) -> CalibrationKey:
        """What a strength of a method would be picked for."""
        return calibration_key(
            session, method, options, self.settings, topic=self.topic, sae_keys=self.sae_keys, vectors=self.vectors
        )

    def fit_key(self, session: Asks, method: str) -> CalibrationKey:
        """What a strength fitted for a method is stored for; it is fitted on plain texts, whatever is steered."""
        plain = replace(self, settings=replace(self.settings, chat=False, system=None))
        options = replace(self.options[method], strength=None)
        return fit_key(session, plain.calibration_key(session, method, options), self.scoring_ids)

    def fitted(self, method: str, options: Options) -> Options:
        """A method's settings with the strength that default_strength fits to the model, whatever strength they had."""
        start = METHODS[method].strength
        if start is None:
            return options
        with self.recorded.store.read() as session:
            texts = session.ask("spread_prompts", count=TEXTS)["text"].to_list()
        model = self.model
        if not hasattr(model.transformer, "hook_dict"):  # what watches the model sees none of the passes
            model = replace(model, transformer=unhooked_twin(model.transformer))

        def steer_at(strength: float) -> Steering:
            return self._steering(model, method, replace(options, strength=strength), positions="all")

        return replace(options, strength=fit_strength(model, texts, steer_at, start))

    def vector_ids(self, session: Asks, method: str) -> list[int]:
        """The vectors that a method steers by; none for a method that steers by none."""
        used = METHODS[method].vector
        return vector_ids(session, self.vectors, self.sae_keys, used) if used else []

    def steering(self, method: str) -> Steering:
        """A context manager that steers the recorded model by one of the methods."""
        return self._steering(self.model, method, self.options[method], positions=self.settings.positions)

    def _steering(self, model: LoadedModel, method: str, options: Options, *, positions: str) -> Steering:
        return Steering(
            model.transformer,
            self.saes,
            method=method,
            options=options,
            keep_error=self.settings.keep_error,
            positions=positions,
            special_ids=special_ids(model.tokenizer),
            reader=model,
        )


def prepare_steering(
    recorded: RecordedModels,
    topic: str | None,
    methods: Mapping[str, Options] | None = None,
    *,
    settings: SteeringSettings = SteeringSettings(),
    vectors: Sequence[str] = (),
    sae_ids: Sequence[str | int] | None = None,
    chosen: Chosen | str | None = None,
    strict: bool = True,
    progress: Progress = silent,
) -> PreparedSteering:
    """Read scores and vectors, load the SAEs, and settle what each method steers with.

    A topic that lacks a signal of the selection rule is scored for it, where the loaded model can give it at once.

    Args:
        recorded: the language model and the SAEs of a finished atlas.
        topic: a scored topic, or, where there is none of the name, a list of notes, whose neurons steer in its stead; None gives
            every neuron the score 1.
        methods: key of METHODS -> its settings. A strength of None becomes the one that `atlas evaluate --calibrate`
            picked under the same settings, or else the method's default: for `add` one that is fitted to the model.
        settings: what all methods share.
        vectors: behaviours whose contrastive vectors are added up, for the methods that steer by them.
        sae_ids: which SAEs at once; None for the first that the topic is scored and the vectors are made for.
        chosen: neurons that steer in a topic's stead, best first, per key of an SAE, or the name of the list of notes that they
            stand in; then these are the SAEs, and methods that take the best neurons take all of them, unless their settings say
            how many.
        strict: whether to refuse a method without the topic or the vector that it steers by, and vectors without a
            method that uses them.
        progress: called with (stage, done, total).

    Raises:
        UnknownName: no such topic, list, SAE, method or vector.
        AtlasError: a method has no such option, or lacks what it steers by; the rule needs a signal that is not there.
        StoreError: the topic's scores are stale, a vector is not made for an SAE, or an SAE has changed.
        ModelError: the folder of the model or of an SAE is gone.
    """
    given = methods or {}
    keys = find_sae_keys(recorded.store, sae_ids)
    topic, chosen, list_name = find_source(recorded.store, topic, chosen, keys)
    if chosen:
        given = {method: _all_chosen(method, own, chosen) for method, own in given.items()}
    options = {method: settle_options(method, own) for method, own in given.items()}
    if strict and methods:
        check_sources(topic, list(methods), vectors, chosen=chosen)
    progress("loading SAEs and model", 0, 0)
    ensure_signals(recorded, topic, settings.select, keys, progress=progress)
    found = load_steered_saes(
        recorded, topic, keys, scorer=settings.scorer, select=settings.select, vectors=vectors, chosen=chosen
    )
    prepared = PreparedSteering(
        recorded,
        topic,
        tuple(vectors),
        settings,
        found.saes,
        found.scoring_ids,
        found.rows,
        options,
        chosen=chosen,
        list_name=list_name,
    )
    if settings.chat:
        wrap_prompts(recorded.model[1], [""], system=settings.system)  # says now what is wrong with the template
    unfitted, fits = [], dict[str, float]()
    with recorded.store.read() as session:
        for method in [method for method, own in given.items() if own.strength is None]:
            picked = _pick_strength(session, prepared, method)
            if picked is None and METHODS[method].fitted:
                picked = picked_strength(session, prepared.fit_key(session, method))
                if picked is None:
                    unfitted.append(method)
            options[method] = options[method] if picked is None else replace(options[method], strength=picked)
    for method in unfitted:
        progress("fitting the strength", 0, 0)
        options[method] = prepared.fitted(method, options[method])
        strength = options[method].strength
        if strength is not None and not chosen:  # a fit is kept under its topic's name
            fits[method] = strength
    return replace(prepared, fits=fits)


def _pick_strength(session: Asks, prepared: PreparedSteering, method: str) -> float | None:
    """The strength that was picked under these settings; for a chat, where none was, the one picked on plain texts."""
    settings, options = prepared.settings, prepared.options[method]
    picked = picked_strength(session, prepared.calibration_key(session, method, options))
    if picked is None and settings.chat:
        plain = replace(prepared, settings=replace(settings, chat=False, system=None))
        picked = picked_strength(session, plain.calibration_key(session, method, options))
    return picked


def _all_chosen(method: str, options: Options, chosen: Chosen) -> Options:
    """Settings of a method that takes as many of the best neurons as were chosen, unless it is told how many."""
    if method not in METHODS or METHODS[method].neurons is None or options.neurons is not None:
        return options
    return replace(options, neurons=max(len(set(neurons)) for neurons in chosen.values()))


def check_sources(
    topic: str | None, methods: Sequence[str], vectors: Sequence[str], *, chosen: Chosen | None = None
) -> None:
    """Raise AtlasError for a method that needs a topic or a vector where there is none, or a vector that none uses."""
    if chosen and topic is not None:
        raise AtlasError(f"either topic {topic!r} or neurons of your choice steer: give - as the topic, or no neuron")
    for method in methods:
        if topic is None and not chosen and METHODS[method].needs_scores:
            raise AtlasError(f"method {method} steers by a topic's scores: name a topic")
        if METHODS[method].vector and not vectors:
            name = "" if topic is None else shlex.quote(topic)
            own = f" (`atlas contrast ATLAS {name} --topic {name}` makes that of the topic's texts)" if name else ""
            raise AtlasError(f"method {method} steers by a contrastive vector: name one with --vector{own}")
    if vectors and not any(METHODS[method].vector for method in methods):
        users = [name for name, method in METHODS.items() if method.vector]
        raise AtlasError(f"none of the methods {', '.join(methods)} uses a vector: add one of {', '.join(users)}")
