"""Know models, tokenizers and SAEs again by hashes of their weights, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import StoreError
from atlas.models.digests import LINE, digest_sample, hash_words, join_digests, join_hashes, sampling_step


def check_identity(row: dict[str, Any], model_hash: str, tokenizer_hash: str, sae_hash: str | None = None) -> None:
    """Raise StoreError when a row of `saes` was made with another model, tokenizer or SAE."""
    for kind, name, found, recorded in (
        ("model", row["model"], model_hash, row["model_hash"]),
        ("tokenizer", row["model"], tokenizer_hash, row["tokenizer_hash"]),
        ("SAE", row["sae_id"], sae_hash or row["sae_hash"], row["sae_hash"]),
    ):
        if found != recorded:
            raise StoreError(
                f"this {kind} is not the one the atlas was built with ({name}): its weights differ; "
                f"use that one, or build another atlas"
            )


def hash_encoder(model: Any) -> str:
    """A hash of a sentence encoder's weights and vocabulary; of its modules' settings where it has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if callable(tokenizer):
        words = hash_tokenizer(tokenizer)
    else:
        settings = [(type(module).__name__, sorted(module.get_config_dict().items())) for module in model]
        vocabulary: Any = getattr(tokenizer, "get_vocab", dict)()
        listed = sorted(vocabulary.items()) if isinstance(vocabulary, dict) else list(vocabulary)
        words = hashlib.sha256(repr((settings, listed)).encode()).hexdigest()
    return join_hashes(hash_tensors(model.state_dict().values()), words)


def hash_model(model: nn.Module) -> str:
    """A hash of a language model's parameters, the same for a TransformerBridge and the Hugging Face model behind it.

    Tensors of zeros do not count.
    """
    return hash_tensors(tensor.detach() for tensor in own_parameters(model) if tensor.any())


def own_parameters(model: nn.Module) -> Iterator[Tensor]:
    """The parameters of a language model's checkpoint, each once.

    A bridge puts components of its own, with copies of split matrices, in the place of the model's modules, and keeps each
    of these as `original_component`: those are followed instead.
    """
    seen: set[int] = set()

    def walk(module: nn.Module) -> Iterator[Tensor]:
        module = getattr(module, "original_component", None) or module
        for part in (*module._parameters.values(), *module._modules.values()):
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            if isinstance(part, nn.Module):
                yield from walk(part)
            else:
                yield part

    yield from walk(getattr(model, "original_model", model))


def hash_sae(sae: Any) -> str:
    """A hash of an SAE's weights and of the settings that its arithmetic depends on."""
    settings = {name: value for name, value in sae.cfg.to_dict().items() if name not in ("metadata", "device", "dtype")}
    if sae.cfg.metadata.largest_input_norm is not None:
        settings["largest_input_norm"] = sae.cfg.metadata.largest_input_norm
    digest = repr(sorted(settings.items())) + hash_tensors(sae.state_dict().values())
    return hashlib.sha256(digest.encode()).hexdigest()


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors, whatever their names, order, and number format down to bfloat16.

    Of each tensor a million or two evenly spaced values are read, so that a large model takes a second or two.
    """
    return join_digests(map(digest_tensor, tensors))


def digest_tensor(tensor: Tensor) -> bytes:
    """The digest of a tensor."""
    flat = tensor.detach().reshape(-1)
    sample = flat[:: sampling_step(flat.numel())].to("cpu", torch.bfloat16)
    return digest_sample(tensor.shape, sample.view(torch.int16).numpy().tobytes())


def hash_tokenizer(tokenizer: Any) -> str:
    """A hash of a tokenizer's vocabulary and of how it splits a line of text."""
    return hash_words(tokenizer.get_vocab(), tokenizer(LINE, add_special_tokens=False)["input_ids"])


def check_model(model: nn.Module, tokenizer: Any, row: dict[str, Any]) -> None:
    """Raise StoreError when a model or tokenizer is not the one the SAE's activations came from."""
    found = hash_tokenizer(tokenizer) if tokenizer is not None else row["tokenizer_hash"]
    check_identity(row, hash_model(model), found)
