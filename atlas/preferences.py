"""What a language model, as it is now, says of contrast pairs and of texts (method: section 5, evaluation 1, 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.errors import AtlasError
from atlas.likelihood import log_probabilities, perplexity_of
from atlas.sides import Sides


def choose(model: Any, tokenizer: Any, sides: Sequence[Sides]) -> np.ndarray:
    """Probability of the positive completion of each pair against the negative one, under the model as it is now [pair].

    exp(m⁺) / (exp(m⁺) + exp(m⁻)), m the mean log-probability of a side's tokens from the first to the last in which the
    two differ. For lettered answers that is the one token of the letter; longer completions are so normalised by length.
    """
    rows, spans = [], []
    for pair in sides:
        begin, end = _differing(pair)
        for ids in (pair.positive, pair.negative):
            rows.append(ids)
            spans.append((max(begin, 1), len(ids) - end))
            if spans[-1][0] >= spans[-1][1]:
                raise AtlasError(f"pair {pair.pair + 1} has one token and nothing before it: give it a prompt")
    means = np.array([values.mean() for values in log_probabilities(model, tokenizer, rows, spans)])
    return 1 / (1 + np.exp(means[1::2] - means[0::2]))


def perplexities(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """exp of the mean negative log-likelihood of each text's tokens, under the model as it is now [text]."""
    spans = [(1, len(row)) for row in rows]
    return np.array([perplexity_of(values) for values in log_probabilities(model, tokenizer, rows, spans)])


def _differing(pair: Sides) -> tuple[int, int]:
    """Tokens that both sides share at the beginning and at the end; at least one of each side is left."""
    shorter = min(len(pair.positive), len(pair.negative))
    begin = min(pair.first, shorter - 1)
    backwards = zip(reversed(pair.positive[begin + 1 :]), reversed(pair.negative[begin + 1 :]), strict=False)
    end = next((i for i, (a, b) in enumerate(backwards) if a != b), shorter - begin - 1)
    return begin, end
