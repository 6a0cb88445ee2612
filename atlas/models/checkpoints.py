"""Weights: from safetensors alone, all of them, and of a model that generates text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas.errors import ModelError

SAFELY = {"use_safetensors": True, "trust_remote_code": False}  # neither pickles nor code from a model's folder
CONVERT = "load it where you trust it, and save it with save_pretrained, which writes safetensors"


def require_safetensors(path: Path, kind: str) -> None:
    """Raise ModelError for a folder whose only weights are of formats that can run code when they are read."""
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return
    others = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for file in path.glob(pattern)
    )
    if others:
        raise ModelError(
            f"cannot load {kind} {path}: its weights are in {others[0]}, a format that can run code when it is read, and "
            f"there is no *.safetensors: {CONVERT}"
        )


def load_weights(auto: Any, place: str, **options: Any) -> Any:
    """A model with every weight from its files; Transformers would fill those that are not there with random numbers."""
    model, told = auto.from_pretrained(place, **{**options, **SAFELY}, output_loading_info=True)
    lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
    if lacking:
        raise ModelError(
            f"cannot load language model {place}: its files lack {len(lacking)} of the weights of {type(model).__name__}, "
            f"such as {lacking[0]}: name a whole model"
        )
    return model


def model_class(config: Any) -> Any:
    """The class of Transformers that loads a generating model, with its second tower where it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    if config.is_encoder_decoder:
        raise ModelError(f"a {config.model_type} model reads and writes by two stacks: use a causal language model")
    if config.get_text_config() is not config and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"a {config.model_type} model is not a causal language model: use one")
    return AutoModelForCausalLM
