"""How strongly to steer when nobody says: at a price in likelihood that is the same for every model, SAE and topic.

A fixed strength does not travel: largest activations, decoder rows and the residual stream differ in size between models. What
steering costs does: the divergence KL(steered || unsteered) of the next token, in nats, says how much more surprising the unsteered
model finds a token that the steered one writes. For small steps it grows with the square of the strength, so few passes find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from atlas.models.loaded import LoadedModel
from atlas.models.quiet import no_notice_of_pads
from atlas.models.tokens import pad_rows, special_ids

PRICE = 1.25  # times as surprising, by geometric mean over tokens
TEXTS, TOKENS = 8, 24  # read from so many reference prompts, so many tokens of each
CLOSE = 1.1  # a price so near, as a factor of its logarithm, is the one asked for
PASSES, LONGEST_STEP = 8, 8.0  # at most; a divergence that is full or none says only in which direction to go
RULE = (
    f"fitted: the strength at which the unsteered model finds a steered token {PRICE} times as surprising as one of its own, "
    f"over the beginnings of {TEXTS} reference prompts"
)


def fit_strength(
    model: LoadedModel, texts: Sequence[str], steer_at: Callable[[float], AbstractContextManager[Any]], start: float
) -> float:
    """The strength at which steering costs PRICE; `start` where no strength moves anything.

    Args:
        model: the model that is steered.
        texts: what it reads.
        steer_at: steers it by a strength while it lasts, on every token: a text that is read has no generated ones.
        start: where the search begins.
    """
    rows = [row[:TOKENS] for row in replace(model, chat=False, system=None).rows(texts)]
    device = next(model.transformer.parameters()).device
    batch, mask = pad_rows(model.tokenizer, rows, device)
    keep = mask & ~torch.isin(batch, torch.tensor(sorted(special_ids(model.tokenizer)), device=device))
    if not keep.any() or not start:
        return start
    with torch.inference_mode(), no_notice_of_pads():
        plain = _next_token(model.transformer, batch, mask)[keep]

        def price_of(strength: float) -> float:
            with steer_at(strength):
                return divergence(_next_token(model.transformer, batch, mask)[keep], plain)

        return settle_price(price_of, start)


def settle_price(price_of: Callable[[float], float], start: float) -> float:
    """The strength whose price is log PRICE, to two digits; `start` where no strength has a price."""
    wanted, strength = math.log(PRICE), start
    for _ in range(PASSES):
        price = price_of(strength)
        if price == 0:
            return start
        step = math.sqrt(wanted / price) if math.isfinite(price) and price > 0 else 1 / LONGEST_STEP
        strength *= min(max(step, 1 / LONGEST_STEP), LONGEST_STEP)
        if 1 / CLOSE < wanted / price < CLOSE:
            break
    return float(f"{strength:.2g}")


def divergence(steered: Tensor, plain: Tensor) -> float:
    """Mean over tokens of KL(steered || plain), from log-probabilities [token, vocabulary]."""
    return float((steered.exp() * (steered - plain)).sum(-1).mean())


def _next_token(model: Any, batch: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of the token after each [batch, token, vocabulary], by a Hugging Face model or a TransformerBridge."""
    if hasattr(model, "hook_dict"):
        logits = model(batch, return_type="logits")
    else:
        logits = model(batch, attention_mask=mask.long(), use_cache=False).logits
    return logits.float().log_softmax(-1)
