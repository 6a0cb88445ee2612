"""Steer by the scores in the store: read them, load the SAEs, generate, keep what was generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import nn

from atlas.checks import check_identity, require_complete, require_scored
from atlas.errors import AtlasError, ModelError, StoreError
from atlas.generate import Generation, Sampling, generate
from atlas.methods import METHODS, Options, Target, settle_options, takes
from atlas.models import LoadedSae, hash_model, hash_tokenizer, load_sae, load_transformer
from atlas.progress import Progress, silent
from atlas.selection import select_neurons
from atlas.steering import Layer, check_positions
from atlas.store import Session, Store, now

if TYPE_CHECKING:
    from atlas.api import Atlas


class Steerer:
    """The language model and the SAEs of an atlas, each loaded once and checked, with the layers of any topic.

    Args:
        store: a finished atlas.
        model: where the language model is now; None for where it was at build.
        release: the SAELens release or folder where the SAEs are now; None for where they were at build.
        device: torch device.
    """

    def __init__(
        self, store: Store, *, model: str | None = None, release: str | None = None, device: str = "cpu"
    ) -> None:
        self.store, self.device = store, device
        self._model_name, self._release = model, release
        self._saes: dict[int, LoadedSae] = {}

    @cached_property
    def model(self) -> tuple[Any, Any]:
        """The Hugging Face model and its tokenizer; ModelError or StoreError when it is gone or another one."""
        row = self._first_row
        model, tokenizer = load_transformer(self.model_name, device=self.device, dtype=row["dtype"])
        check_model(model, tokenizer, row)
        return model, tokenizer

    @property
    def model_name(self) -> str:
        """Where the language model is; ModelError when its folder is gone."""
        if self._model_name is not None:
            return self._model_name
        name = str(self._first_row["model"])
        if is_gone(name):
            raise ModelError(f"the model's folder {name} is gone: say where it is now with --model")
        return name

    @cached_property
    def _first_row(self) -> dict[str, Any]:
        with self.store.read() as session:
            require_complete(session, self.store)
            return dict(session.ask("all_saes").to_dicts()[0])

    @cached_property
    def recorded_encoder(self) -> str:
        """The sentence encoder, as it was named at build."""
        with self.store.read() as session:
            return str(require_complete(session, self.store)["encoder"])

    def layers(
        self,
        topic: str | None,
        sae_keys: Sequence[int] | None = None,
        *,
        scorer: str = "distance",
        select: str = "score",
    ) -> Layers:
        """The SAEs with a topic's current scores.

        Args:
            topic: None gives every neuron the score 1.
            sae_keys: which SAEs; None for the first one that the topic is scored for.
            scorer: whose scores.
            select: key of atlas.selection.RULES.

        Raises:
            UnknownName: no such topic, scorer or rule.
            AtlasError: the rule needs a signal that is not there.
            StoreError: the topic is not scored for an SAE over today's prompts, or an SAE has changed.
            ModelError: an SAE's folder is gone.
        """
        with self.store.read() as session:
            require_complete(session, self.store)
            rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
            current = {} if topic is None else require_scored(session, topic, scorer)
            keys = list(sae_keys) if sae_keys is not None else sorted(current or rows)[:1]
            for key in keys:
                if topic is not None and key not in current:
                    raise StoreError(
                        f"topic {topic!r} is not scored for SAE {rows[key]['sae_id']}: run `atlas score` for it"
                    )
            frames = {key: session.ask("steering_columns", sae_key=key, scoring_id=current.get(key)) for key in keys}
        layers = []
        for key in keys:
            target = make_target(frames[key], topic is None, self.device, select)
            layers.append(Layer(rows[key]["hook_name"], self._sae(rows[key]).codec, target))
        return Layers(layers, [current[key] for key in keys if key in current], [rows[key] for key in keys])

    def _sae(self, row: dict[str, Any]) -> LoadedSae:
        key, release = row["sae_key"], self._release or row["release"]
        if key not in self._saes:
            if self._release is None and is_gone(release):
                raise ModelError(f"the SAEs' folder {release} is gone: say where it is now with --release")
            loaded = load_sae(release, row["sae_id"], device=self.device, dtype=row["dtype"])
            check_identity(row, row["model_hash"], row["tokenizer_hash"], loaded.sae_hash)
            self._saes[key] = loaded
        return self._saes[key]


class Layers(NamedTuple):
    """SAEs with scores, the scorings they come from, and the SAEs' rows in the store."""

    layers: list[Layer]
    scoring_ids: list[int]
    rows: list[dict[str, Any]]


def is_gone(name: str) -> bool:
    """Whether a recorded name is a local folder that is not there any more."""
    return name.startswith("/") and not Path(name).exists()


def make_target(frame: pl.DataFrame, neutral: bool, device: str = "cpu", select: str = "score") -> Target:
    """A Target from the columns of sql/steering_columns.sql; `neutral` scores are all 1."""
    if neutral:
        scores, best = np.ones(frame.height, dtype=np.float32), np.arange(frame.height)
    else:
        scores, best = select_neurons(frame, select)
    return Target(
        torch.tensor(scores, device=device),
        torch.tensor(frame["max_activation"].to_numpy(), device=device),
        torch.tensor(best, device=device),
    )


def check_model(model: nn.Module, tokenizer: Any, row: dict[str, Any]) -> None:
    """Raise StoreError when a model or tokenizer is not the one the SAE's activations came from."""
    found = hash_tokenizer(tokenizer) if tokenizer is not None else row["tokenizer_hash"]
    check_identity(row, hash_model(model), found)


def steer_prompts(
    atlas: Atlas,
    topic: str,
    prompts: Sequence[str],
    *,
    methods: Sequence[str],
    sae_ids: Sequence[str | int] | None = None,
    settings: dict[str, Any],
    keep_error: bool = False,
    positions: str = "all",
    steerer: Steerer | None = None,
    sampling: Sampling = Sampling(),
    save: bool = True,
    progress: Progress = silent,
) -> list[Generation]:
    """Go on with each prompt under each method, and store texts and figures in the atlas.

    Args:
        atlas: an open atlas.
        topic: a scored topic.
        prompts: what the model is given.
        methods: keys of METHODS.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        settings: fields of Options; each method takes those it has, and one that no method has is an error.
        keep_error: see Steering.
        positions: see Steering.
        steerer: the loaded model and SAEs; None loads them from where they were at build.
        sampling: the same for every method and prompt.
        save: whether to store the generations.
        progress: called with (stage, done, total).
    """
    options = {method: options_for(method, settings, methods) for method in methods}
    check_positions(positions)
    progress("loading SAEs and model", 0, 0)
    keys = None if sae_ids is None else [atlas.sae_key(one) for one in sae_ids]
    steerer = steerer or Steerer(atlas.store)
    layers, scoring_ids, rows = steerer.layers(topic, keys)
    model, tokenizer = steerer.model
    results: list[Generation] = []
    for done, method in enumerate(methods):
        progress("generating", done * len(prompts), len(methods) * len(prompts))
        results += generate(
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
    progress("generating", len(results), len(results))
    if save:
        shared = {"keep_error": keep_error, "positions": positions, **asdict(sampling)}
        parameters = {method: {**asdict(options[method]), **shared} for method in methods}
        with atlas.store.write() as session:
            store_generations(session, results, scoring_ids, parameters)
    return results


def options_for(method: str, settings: dict[str, Any], methods: Sequence[str]) -> Options:
    """The settings a method takes, defaults filled in; AtlasError for one that none of `methods` takes."""
    for name in methods:
        settle_options(name, Options())  # says which names are unknown
    if len(methods) == 1:
        return settle_options(method, Options(**settings))
    taken = {}
    for key, value in settings.items():
        takers = [name for name in methods if takes(name, key)]
        if value not in (None, "own") and not takers:
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
) -> list[int]:
    """Append to `generations` and `metrics`; the new ids. `parameters` are kept per method, as JSON."""
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
