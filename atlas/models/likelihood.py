"""How likely a language model finds given tokens, and the perplexity of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atlas.models.loaded import LoadedModel
from atlas.models.tokens import pad_rows

BATCH_SIZE = 16  # texts per forward pass


def perplexity_of(log_probabilities: np.ndarray) -> float:
    """exp of the mean negative log-probability; infinite where a token was impossible, or nearly."""
    with np.errstate(over="ignore"):
        return float(np.exp(-log_probabilities.mean()))


@torch.inference_mode()
def log_probabilities(
    model: LoadedModel, rows: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """Per row of token ids the log-probabilities of its tokens in [begin, end), each given those before; begin >= 1."""
    found = []
    for start in range(0, len(rows), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        batch, mask = pad_rows(model.tokenizer, rows[part], model.transformer.device)
        logits = model.transformer(batch, attention_mask=mask.long(), use_cache=False).logits
        for row, (begin, end) in enumerate(spans[part]):
            chances = logits[row, begin - 1 : end - 1].float().log_softmax(-1)
            found.append(chances.gather(-1, batch[row, begin:end, None]).squeeze(-1).double().cpu().numpy())
    return found


def perplexities(model: LoadedModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """exp of the mean negative log-likelihood of each text's tokens, under the model as it is, steered or not [text]."""
    spans = [(1, len(row)) for row in rows]
    return np.array([perplexity_of(values) for values in log_probabilities(model, rows, spans)])
