"""Load language models and their tokenizers: from weights in safetensors alone, and without code from a model's folder."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atlas.errors import ModelError, UnknownName
from atlas.models.checkpoints import load_weights, model_class
from atlas.models.configs import context_size
from atlas.models.fingerprints import hash_model, hash_tokenizer
from atlas.models.load_failures import loading
from atlas.models.places import find_model, resolve_model
from atlas.models.quiet import quiet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A TransformerBridge with what an atlas records of it.

    Attributes:
        plain: the Hugging Face model with the same weights (they share their memory), to check the bridge by.
        reads_plain: whether activations are taken from `plain`, because the bridge computes something else.
    """

    name: str
    bridge: Any
    tokenizer: Any
    model_hash: str
    tokenizer_hash: str
    context_size: int
    plain: nn.Module
    reads_plain: bool = False


def load_language_model(name: str, *, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """A model (see `find_model`) as a TransformerBridge; ModelError when it cannot be loaded.

    The tokenizer is the plain one: a bridge gives its own tokens that a tokenizer lacks.
    """
    name = resolve_model(name)
    folder = find_model(name)
    with quiet(), loading("language model", name):
        config = _load_config(folder)
    tokenizer = _read_tokenizer(name, folder)
    with quiet(), loading("language model", name):
        plain, bridge = _wrap(folder, config, copy.deepcopy(tokenizer), device, number_format(dtype))
    return LanguageModel(
        name,
        bridge,
        tokenizer,
        hash_model(plain),
        hash_tokenizer(tokenizer),
        context_size(plain),
        plain,
    )


def number_format(name: str) -> torch.dtype:
    """The number format of a name that a user or an atlas gives; UnknownName for one that weights are not loaded in."""
    if name not in DTYPES:
        raise UnknownName("number format", name, DTYPES)
    return DTYPES[name]


def load_transformer(name: str, *, device: str = "cpu", dtype: str = "float32") -> tuple[nn.Module, Any]:
    """A model (see `find_model`) as a plain Hugging Face causal model, and its tokenizer."""
    folder = find_model(name)
    with quiet(), loading("language model", name):
        model = load_weights(model_class(_load_config(folder)), folder, dtype=number_format(dtype))
    return model.to(device).eval().requires_grad_(False), _read_tokenizer(name, folder)


def _load_config(place: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(place, trust_remote_code=False)


def _wrap(place: str, config: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """The plain model, and a TransformerBridge around its twin, which has the same tensors."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    auto, twins = model_class(config), []

    class Loader:
        """What TransformerLens calls for the weights."""

        @staticmethod
        def from_pretrained(path: str, **options: Any) -> nn.Module:
            model = load_weights(auto, path, **options).to(device).eval().requires_grad_(False)
            twins.append(_twin(model))
            return model

    if config.get_text_config() is config:
        bridge = TransformerBridge.boot_transformers(
            place, device=device, dtype=dtype, tokenizer=tokenizer, model_class=Loader, trust_remote_code=False
        )
    else:  # for a second tower `boot_transformers` would install packages
        model = Loader.from_pretrained(place, dtype=dtype, attn_implementation="eager")
        bridge = build_bridge_from_module(
            model,
            determine_architecture_from_hf_config(config),
            hf_config=config,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            model_name=place,
        )
    bridge.eval().requires_grad_(False)
    return twins[0], bridge


def _twin(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its tensors: wrapping the one in a bridge leaves the other as it is."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model (see `find_model`)."""
    return _read_tokenizer(name, find_model(name))


def _read_tokenizer(name: str, folder: str) -> Any:
    with quiet(), loading("tokenizer", name):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer is None or not len(tokenizer):
        raise ModelError(f"cannot load tokenizer {name}: it has no tokens; is tokenizer.json there and whole?")
    return tokenizer
