"""The language model and the SAEs that an atlas was built with: loaded once, and checked against its record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from atlas.errors import ModelError
from atlas.models.agreement import check_place
from atlas.models.fingerprints import check_identity, check_model
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer
from atlas.models.places import resolve_model
from atlas.models.quiet import LOADING
from atlas.models.saes import LoadedSae, load_sae, set_centring, writes_to_stream
from atlas.store.file import Store
from atlas.store.state import require_complete


class RecordedModels:
    """The language model and the SAEs that an atlas was built with, each loaded once and checked.

    Args:
        store: a finished atlas.
        model: where the language model is now; None for where it was at build.
        release: the SAELens release or folder where the SAEs are now; None for where they were at build.
        device: torch device.
        loaded: the language model (a TransformerBridge does too) and its tokenizer, when they are loaded and checked.
        saes: key -> SAE, for those that are loaded and checked; takes in those that are loaded later.
    """

    def __init__(
        self,
        store: Store,
        *,
        model: str | None = None,
        release: str | None = None,
        device: str = "cpu",
        loaded: tuple[Any, Any] | None = None,
        saes: dict[int, LoadedSae] | None = None,
    ) -> None:
        self.store, self.device, self._loaded = store, device, loaded
        self._model_name, self._release = model, release
        self._saes = {} if saes is None else saes
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

    def read_as(self, row: Mapping[str, Any]) -> LoadedModel:
        """The language model, its texts beginning as the SAE of a row of `saes` wants it."""
        model, tokenizer = self.model
        return LoadedModel(model, tokenizer, bool(row["prepend_bos"]))

    @property
    def model_name(self) -> str:
        """Where the language model is; ModelError when its folder or file is gone."""
        name = str(self._first_row["model"])
        if self._model_name is not None:
            return resolve_model(self._model_name, recorded=name)
        if is_gone(name):
            raise ModelError(f"the model's place {name} is gone: say where it is now with --model")
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

    def sae(self, row: dict[str, Any]) -> LoadedSae:
        """The SAE of a row of `saes`; ModelError or StoreError when it is gone or another one."""
        key, release = row["sae_key"], self._release or row["release"]
        with LOADING:  # threads that share an Atlas share its SAEs
            if key not in self._saes:
                if self._release is None and is_gone(release):
                    raise ModelError(f"the SAEs' folder {release} is gone: say where it is now with --release")
                loaded = load_sae(release, row["sae_id"], device=self.device, dtype=row["dtype"])
                check_identity(row, row["model_hash"], row["tokenizer_hash"], loaded.sae_hash)
                center = row["center_writing_weights"] and writes_to_stream(row["hook_name"])
                self._saes[key] = set_centring(loaded, center=center)
            return self._saes[key]

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
    """Whether a recorded name is a local folder or file that is not there any more."""
    return name.startswith("/") and not Path(name).exists()
