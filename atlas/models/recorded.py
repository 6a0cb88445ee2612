"""The language model and SAEs of an atlas, loaded once and checked, with the scores and vectors to steer by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from atlas.contrast.vectors import saes_with_vectors, sum_vectors
from atlas.errors import ModelError, StoreError
from atlas.models.agreement import check_place
from atlas.models.fingerprints import check_identity, check_model
from atlas.models.loading import load_transformer
from atlas.models.quiet import LOADING
from atlas.models.saes import LoadedSae, load_sae, set_centring, writes_to_stream
from atlas.scoring.scored import require_scored
from atlas.steering.methods import Layer
from atlas.steering.selection import DEFAULT_RULE
from atlas.steering.targets import Layers, make_target
from atlas.store.file import Store
from atlas.store.state import require_complete


class Steerer:
    """The language model and the SAEs of an atlas, each loaded once and checked, with the layers of any topic.

    Args:
        store: a finished atlas.
        model: where the language model is now; None for where it was at build.
        release: the SAELens release or folder where the SAEs are now; None for where they were at build.
        device: torch device.
        loaded: the language model (a TransformerBridge does too) and its tokenizer, when they are loaded and checked.
    """

    def __init__(
        self,
        store: Store,
        *,
        model: str | None = None,
        release: str | None = None,
        device: str = "cpu",
        loaded: tuple[Any, Any] | None = None,
    ) -> None:
        self.store, self.device, self._loaded = store, device, loaded
        self._model_name, self._release = model, release
        self.saes: dict[int, LoadedSae] = {}
        self._placed: set[int] = set()  # keys of SAEs whose place in the model is found to be right

    @property
    def model(self) -> tuple[Any, Any]:
        """The Hugging Face model and its tokenizer; ModelError or StoreError when it is gone or another one."""
        with LOADING:
            if self._loaded is None:
                row = self._first_row
                model, tokenizer = load_transformer(self.model_name, device=self.device, dtype=row["dtype"])
                check_model(model, tokenizer, row)
                self._loaded = model, tokenizer
            return self._loaded

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
        select: str = DEFAULT_RULE,
        vectors: Sequence[str] = (),
    ) -> Layers:
        """The SAEs with a topic's current scores, and with contrastive vectors.

        Args:
            topic: None gives every neuron the score 1.
            sae_keys: which SAEs; None for the first one that the topic is scored and the vectors are made for.
            scorer: whose scores.
            select: key of atlas.selection.RULES.
            vectors: behaviours whose vectors are added up.

        Raises:
            UnknownName: no such topic, scorer, rule or vector.
            AtlasError: the rule needs a signal that is not there.
            StoreError: the topic is not scored for an SAE over today's prompts, a vector is not made for it, or an SAE
                has changed.
            ModelError: an SAE's folder is gone.
        """
        with self.store.read() as session:
            require_complete(session, self.store)
            rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
            current = {} if topic is None else require_scored(session, topic, scorer)
            have = sorted(current or rows)
            if vectors:
                made = saes_with_vectors(session, vectors)
                have = [key for key in have if key in made] or have
            keys = list(sae_keys) if sae_keys is not None else have[:1]
            for key in keys:
                if topic is not None and key not in current:
                    raise StoreError(
                        f"topic {topic!r} is not scored for SAE {rows[key]['sae_id']}: run `atlas score` for it"
                    )
            frames = {key: session.ask("steering_columns", sae_key=key, scoring_id=current.get(key)) for key in keys}
            sums = {
                key: sum_vectors(session, vectors, key, rows[key]["d_sae"], rows[key]["d_in"])
                for key in keys
                if vectors
            }
        layers = []
        for key in keys:
            target = make_target(frames[key], topic is None, self.device, select)
            if key in sums:
                arrays = {name: torch.tensor(array, device=self.device) for name, array in vars(sums[key]).items()}
                target = replace(target, **arrays)
            scores = frames[key]["score"].fill_null(0).to_numpy()  # what contamination is measured by, whatever steers
            ruler = None if topic is None else torch.tensor(scores, dtype=torch.float32, device=self.device)
            layers.append(Layer(rows[key]["hook_name"], self.placed_sae(rows[key]).codec, target, ruler))
        return Layers(layers, [current[key] for key in keys if key in current], [rows[key] for key in keys])

    def sae(self, row: dict[str, Any]) -> LoadedSae:
        """The SAE of a row of `saes`; ModelError or StoreError when it is gone or another one."""
        key, release = row["sae_key"], self._release or row["release"]
        with LOADING:  # threads that share an Atlas share its SAEs
            if key not in self.saes:
                if self._release is None and is_gone(release):
                    raise ModelError(f"the SAEs' folder {release} is gone: say where it is now with --release")
                loaded = load_sae(release, row["sae_id"], device=self.device, dtype=row["dtype"])
                check_identity(row, row["model_hash"], row["tokenizer_hash"], loaded.sae_hash)
                center = row["center_writing_weights"] and writes_to_stream(row["hook_name"])
                self.saes[key] = set_centring(loaded, center=center)
            return self.saes[key]

    def placed_sae(self, row: dict[str, Any]) -> LoadedSae:
        """The SAE of a row of `saes`, to be used in the model; ModelError unless its hook means the same place there."""
        sae = self.sae(row)
        if row["sae_key"] not in self._placed:
            model, tokenizer = self.model
            with self.store.read() as session:
                check_place(session, model, tokenizer, row, sae.codec)
            self._placed.add(row["sae_key"])
        return sae


def is_gone(name: str) -> bool:
    """Whether a recorded name is a local folder that is not there any more."""
    return name.startswith("/") and not Path(name).exists()
