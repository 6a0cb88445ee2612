"""Two-choice evaluation of contrastive vectors, what they write, and what they cost (method: section 5, evaluation).

Vectors are made from one part of a behaviour's pairs and tried on the other: does the model prefer the completion that
shows the behaviour more when it is steered, does what it writes come closer to such completions, and how much worse does it
do on unrelated texts and questions?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from atlas.contrast.make_vectors import make_vectors
from atlas.contrast.vectors import current_vectors
from atlas.errors import AtlasError, UnknownName
from atlas.evaluation.choice_trial import ChoiceConfig, ChoiceSet, ChoiceTrial, prepare_choice_trial
from atlas.evaluation.runs import MethodSetting, Run, store_runs
from atlas.evaluation.vector_variants import USERS, Vectors, load_vectors
from atlas.models.encoders import Encoder, check_encoder, load_encoder
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.steering.methods import METHODS
from atlas.store.file import Store
from atlas.store.keeping import show_nobody, storing
from atlas.store.state import require_complete
from atlas.store.waiting import patient
from atlas.texts.pairs import PairSet, collect_pairs, split_pairs


def evaluate_choices(
    store: Store,
    name: str,
    data: ChoiceSet,
    *,
    methods: Sequence[str] = ("sas", "dense"),
    config: ChoiceConfig = ChoiceConfig(),
    sae_ids: Sequence[str | int] | None = None,
    each_sae: bool = False,
    recorded: RecordedModels | None = None,
    encoder: Encoder | None = None,
    progress: Progress = silent,
    show: Callable[[pl.DataFrame], None] = show_nobody,
) -> pl.DataFrame:
    """Try a behaviour's vectors on held-out pairs at several strengths, each beside its random control, and store it.

    The vectors made from the other pairs are kept under the name NAME/choices.

    Args:
        store: a finished atlas.
        name: the behaviour.
        data: what the vectors are made from and tried on.
        methods: keys of METHODS that steer by a vector.
        config: how.
        sae_ids: which SAEs at once; None for the first, or with each_sae for all.
        each_sae: steer by one SAE at a time.
        recorded: the loaded model and SAEs.
        encoder: the atlas's sentence encoder, when it is loaded already; needed for config.samples only.
        progress: called with (stage, done, total).
        show: called with what is returned before it is stored; when storing fails, there is a warning.

    Returns:
        A row per method, SAEs, tau, strength and figure: method, sae_id, tau (null but for sparse vectors), strength, name,
        value, low, high (95 %, paired by pair, text or prompt). Figures: probability (of the matching completion against
        the other), shift (steered minus unsteered), both also "after 'The answer is'"; unrelated probability, shift and
        accuracy (on the other behaviours' pairs); unrelated perplexity (of the texts) and unrelated perplexity ratio
        (steered over unsteered); entries and share of neurons (of a sparse vector); the metrics of generated text and
        their differences from unsteered text.

    Raises:
        AtlasError: a method steers by no vector, or there are too few pairs.
    """
    for method in methods:
        if method not in USERS:
            raise UnknownName("method that steers by a vector", method, USERS)
    recorded = recorded or RecordedModels(store)
    made, tried = _split(data.pairs, config)
    vector = name if made is None else f"{name}/choices"
    if made is None:
        _require_other_pairs(store, vector, config.as_read(recorded.model[1], tried))
    encoder = _checked_encoder(encoder, recorded) if config.samples else None
    trials = _Trials(recorded, replace(data, pairs=tried, unrelated=_others(data)), config, encoder)
    runs: list[Run] = []
    groups = _groups(store, sae_ids, each_sae)
    several = len(groups) * len(config.taus) > 1
    with patient():  # the file may be read and written in between
        for group in groups:
            for number, tau in enumerate(config.taus):
                if made is not None:
                    make_vectors(
                        store, vector, made, tau=tau, position=config.position, sae_ids=group, replace=True,
                        chat=config.chat, system=config.system, recorded=recorded, progress=progress,
                    )  # fmt: skip
                vectors = load_vectors(store, recorded, vector, group, config.topic)
                trial = trials.of(vectors)
                if not any(run is trial.unsteered for run in runs):
                    runs.append(trial.unsteered)
                chosen = [method for method in methods if not number or METHODS[method].vector == "sas"]
                runs += _try_vectors(trial, vectors, chosen, config, several=several, progress=progress)
    trials.tell_apart()
    found = choice_table(runs)
    show(found)
    with storing("these figures", store.path):
        store_runs(store, name, runs, {**config.flat(), "vector": vector})
    return found


def _split(pairs: PairSet, config: ChoiceConfig) -> tuple[PairSet | None, PairSet]:
    """The pairs to make vectors from, none where a vector is there already, and those to try them on."""
    made, tried = split_pairs(pairs, config.held_out)
    if tried is None or (made is None and config.held_out < 1):
        raise AtlasError(f"{len(pairs)} pairs are too few to hold out {config.held_out:g} of them: give more")
    return made, tried


def _checked_encoder(encoder: Encoder | None, recorded: RecordedModels) -> Encoder:
    """The atlas's sentence encoder, loaded where it is not given."""
    encoder = encoder or load_encoder(recorded.recorded_encoder)
    with recorded.store.read() as session:
        check_encoder(encoder, require_complete(session, recorded.store))
    return encoder


def _try_vectors(
    trial: ChoiceTrial,
    vectors: Vectors,
    methods: Sequence[str],
    config: ChoiceConfig,
    *,
    several: bool,
    progress: Progress,
) -> list[Run]:
    """A run per method, control or ablation, and strength.

    Args:
        several: whether these vectors are one set of several; then an empty sparse vector is a finding, and no error.
    """
    sparse = [method for method in methods if METHODS[method].vector == "sas"]
    empty = sparse if several and not vectors.sparse_entries else []
    runs = [vectors.run(MethodSetting(method)) for method in empty]
    settings = [
        setting
        for method in methods
        if method not in empty
        for setting in vectors.settings(method, config.strengths, sigma=config.sigma, ablations=config.ablations)
    ]
    stage = _stage(vectors, config)
    for done, setting in enumerate(settings):
        progress(stage, done, len(settings))
        runs.append(trial.run(vectors, setting))
    progress(stage, len(settings), len(settings))
    return runs


class _Trials:
    """A trial per BOS policy and context; SAEs that share them share what the unsteered model says."""

    def __init__(
        self, recorded: RecordedModels, data: ChoiceSet, config: ChoiceConfig, encoder: Encoder | None
    ) -> None:
        self._recorded, self._data, self._config, self._encoder = recorded, data, config, encoder
        self._found: dict[tuple[bool, int], ChoiceTrial] = {}
        self._users: dict[tuple[bool, int], list[dict[str, Any]]] = {}

    def of(self, vectors: Vectors) -> ChoiceTrial:
        """The trial for the SAEs of some vectors."""
        read, context = self._recorded.read_as(vectors.rows[0]), min(row["context_size"] for row in vectors.rows)
        model = replace(read, chat=self._config.chat, system=self._config.system)
        key = model.prepend_bos, context
        if key not in self._found:
            self._found[key] = prepare_choice_trial(
                model, self._data, self._config, context=context, saes=vectors.saes, encoder=self._encoder
            )
        self._users.setdefault(key, []).extend(vectors.rows)
        return self._found[key]

    def tell_apart(self) -> None:
        """Where the SAEs have several policies, say of each unsteered run which SAEs it is compared with."""
        if len(self._found) == 1:
            return
        for key, trial in self._found.items():
            for name in ("sae_ids", "sae_keys"):
                trial.unsteered.parameters[name] = list(dict.fromkeys(row[name[:-1]] for row in self._users[key]))


def choice_table(runs: Sequence[Run]) -> pl.DataFrame:
    """A row per run and figure: method, sae_id, tau, strength, name, value, low, high; null where a run has none."""
    rows = [
        (
            run.setting.name,
            " + ".join(run.parameters["sae_ids"]) if "sae_ids" in run.parameters else None,
            run.parameters.get("tau"),
            run.setting.options.strength,
            str(figure),
            *found,
        )
        for run in runs
        for figure, found in run.figures.items()
    ]
    texts = {"method": pl.String, "sae_id": pl.String}
    numbers = dict.fromkeys(("value", "low", "high"), pl.Float64)
    schema = {**texts, "tau": pl.Float64, "strength": pl.Float64, "name": pl.String, **numbers}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _stage(vectors: Vectors, config: ChoiceConfig) -> str:
    names = ", ".join(row["sae_id"] for row in vectors.rows)
    return f"trying choices, {names}" + (f", tau {vectors.tau:g}" if len(config.taus) > 1 else "")


def _groups(store: Store, sae_ids: Sequence[str | int] | None, each: bool) -> list[list[str | int] | None]:
    """The SAEs to steer at once; None for the first."""
    if not each:
        return [None if sae_ids is None else list(sae_ids)]
    if sae_ids is not None:
        return [[one] for one in sae_ids]
    with store.read() as session:
        return [[key] for key in session.ask("all_saes")["sae_key"]]


def _others(data: ChoiceSet) -> PairSet | None:
    """The unrelated pairs that are not among the behaviour's own."""
    rows = [] if data.unrelated is None else data.unrelated.rows()
    own = set(data.pairs.rows())
    rest = [row for row in rows if row not in own]
    return collect_pairs(rest) if rest else None


def _require_other_pairs(store: Store, vector: str, tried: PairSet) -> None:
    """Raise AtlasError when a vector was made from some of the pairs it is to be tried on."""
    with store.read() as session:
        current_vectors(session, [vector])
        own = set(session.ask("behaviour_pairs", behaviour=vector).rows())
    shared = sum(row in own for row in tried.rows())
    if shared:
        raise AtlasError(f"vector {vector!r} was made from {shared} of these pairs: give others, or lower --held-out")
