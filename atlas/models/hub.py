"""A model of the Hugging Face hub as a folder: from the cache at once, else from the hub, without waiting for one out of reach."""

from __future__ import annotations

import json
from pathlib import Path

from atlas.errors import ModelError
from atlas.models.load_failures import loading
from atlas.models.quiet import quiet

FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")  # neither pickles nor code
OTHERS = ("*/*", "consolidated*")  # the same weights in other forms
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")
SECONDS = 5.0  # to wait for the hub's first word


def cached_folder(name: str) -> Path | None:
    """The folder of a hub name in the cache, all that a model needs in it; None where it is not there."""
    folder = _snapshot(name)
    return folder if folder is not None and _is_whole(folder) else None


def hub_folder(name: str) -> Path:
    """The folder of a hub name, from the cache or the hub; ModelError where neither has it."""
    cached = cached_folder(name)
    if cached is not None:
        return cached
    with quiet(), loading("language model", name):
        from huggingface_hub import snapshot_download

        try:
            require_hub(name)
        except Exception:
            partly = _snapshot(name)
            if partly is not None:
                return partly  # what it lacks the loaders say
            raise
        return Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=list(OTHERS)))


def require_hub(name: str) -> None:
    """Raise unless the hub answers, and has a model of this name; once, where its own loaders would try for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=SECONDS)


def _snapshot(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # a ValueError: no name of the hub's
        return None


def _is_whole(folder: Path) -> bool:
    if not (folder / "config.json").exists() or not any(next(folder.glob(one), None) for one in TOKENIZERS):
        return False
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists()
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: delete {folder}, to get it anew from the hub") from error
    return all((folder / str(part)).exists() for part in parts)
