"""What a model's configuration says, whatever the family calls it and however it is nested."""

from __future__ import annotations

from typing import Any

from torch import nn

CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
UNSTATED_CONTEXT = 2048  # as TransformerLens takes it, for models that can go on for ever


def text_config(model: Any) -> Any:
    """The settings of a Hugging Face model's language model, which lie deeper where it has a second tower."""
    config = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def context_size(model: Any) -> int:
    """How many tokens a Hugging Face model can read at once; UNSTATED_CONTEXT where its settings do not say."""
    config = text_config(getattr(model, "original_model", model))
    found = (getattr(config, name, None) for name in CONTEXT)
    return next((size for size in found if isinstance(size, int) and size > 0), UNSTATED_CONTEXT)


def text_tower(model: nn.Module) -> nn.Module:
    """The language model of a Hugging Face model that has a second tower; the model itself where there is one only."""
    if text_config(model) is model.config or not hasattr(model, "get_decoder"):
        return model
    tower: Any = model.get_decoder()  # type: ignore[operator]
    return tower if isinstance(tower, nn.Module) else model
