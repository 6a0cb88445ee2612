"""A language model that judges how acceptable texts are, by how likely it finds them and how common their tokens are.

SLOR (Pauls and Klein 2012; Lau, Clark and Lappin 2017) takes from a text's log-probability that of its tokens without their order,
and divides by their number; PenLP (Lau, Armendariz, Lappin, Purver and Shu 2020) divides the log-probability by a penalty on the
length. A text goes on from a prompt, so its log-probability is that after the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atlas.models.fingerprints import hash_model
from atlas.models.likelihood import log_probabilities
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer
from atlas.models.places import resolve_model
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import bos_token_id, token_rows
from atlas.store.state import require_complete

TEXTS_AT_ONCE = 1024  # tokenised
LENGTH_PENALTY = 0.8  # PenLP's exponent, as its authors have it (after Vaswani et al. 2017)


class Likelihood(NamedTuple):
    """How likely a text is.

    Attributes:
        given_prompt: its log-probability after the prompt.
        unordered: that of its tokens by their frequency alone.
        tokens: how many tokens it has.
    """

    given_prompt: float
    unordered: float
    tokens: int

    @property
    def slor(self) -> float:
        """(log P(text) - log P_unigram(text)) / tokens."""
        return (self.given_prompt - self.unordered) / self.tokens

    @property
    def penlp(self) -> float:
        """log P(text) / ((5 + tokens) / (5 + 1)) ** 0.8."""
        return self.given_prompt / ((5 + self.tokens) / (5 + 1)) ** LENGTH_PENALTY


class LanguageJudge:
    """A language model with the frequencies of its tokens.

    Args:
        name: what the user calls it.
        model: the model; its texts begin with BOS where it reads texts so.
        unigrams: log-probability of each token of its vocabulary [token].
        is_author: whether it is the model that wrote the texts.
    """

    def __init__(self, name: str, model: LoadedModel, unigrams: np.ndarray, *, is_author: bool = False) -> None:
        self.name, self.model, self.unigrams, self.is_author = name, model, unigrams, is_author
        self._last: tuple[tuple[str, ...], tuple[str, ...], list[Likelihood | None]] | None = None

    def describe(self) -> dict[str, object]:
        """What is stored of it with a run."""
        return {"model": self.name, "is_author": self.is_author}

    def read(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Likelihood | None]:
        """How likely each text is after its prompt; None for one without a token. The last answer is kept for the next figure."""
        asked = tuple(prompts), tuple(texts)
        if self._last is None or self._last[:2] != asked:
            self._last = (*asked, self._read(prompts, texts))
        return self._last[2]

    def _read(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Likelihood | None]:
        """Prompt and text are cut into tokens together: a token that the two share is the text's."""
        heads = self.model.whole_rows(prompts)
        rows = self.model.rows([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
        begins = [max(_shared(head, row), 1) for head, row in zip(heads, rows, strict=True)]
        known = [i for i, text in enumerate(texts) if text and begins[i] < len(rows[i])]
        spans = [(begins[i], len(rows[i])) for i in known]
        chances = log_probabilities(self.model, [rows[i] for i in known], spans)
        found: list[Likelihood | None] = [None] * len(texts)
        for i, values in zip(known, chances, strict=True):
            own = rows[i][begins[i] :]
            found[i] = Likelihood(float(values.sum()), float(self.unigrams[own].sum()), len(own))
        return found


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two rows have in common at their beginnings."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def unigram_log_probabilities(rows: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Log-probability of each token by its frequency in texts [size].

    The share of tokens that occur once is the chance that a further token is a new one (Good and Turing); it is spread
    evenly over the vocabulary: P = (1 - λ) count / N + λ / size, λ = max(tokens that occur once, 1) / N, at most 1.
    """
    counts = np.bincount(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]), minlength=size)
    total = max(int(counts.sum()), 1)
    new = min(max(int((counts == 1).sum()), 1) / total, 1.0)
    found: np.ndarray = np.log((1 - new) * counts / total + new / len(counts))
    return found


def load_language_judge(recorded: RecordedModels, name: str, *, device: str = "cpu") -> LanguageJudge:
    """A language model as a judge of texts that an atlas's model wrote, with token frequencies from its reference prompts.

    Args:
        recorded: the model of the atlas.
        name: a language model: a folder, a GGUF file, a hub name, or a short one such as smollm2.
        device: torch device.

    Raises:
        ModelError: the model cannot be loaded.
    """
    with recorded.store.read() as session:
        require_complete(session, recorded.store)
        row = session.ask("all_saes").to_dicts()[0]
        texts = session.ask("prompt_texts")["text"].to_list()
    if resolve_model(name, recorded=row["model"]) == recorded.model_name:
        model, tokenizer = recorded.model
    else:
        model, tokenizer = load_transformer(name, device=device, dtype=row["dtype"])
    is_author = hash_model(model) == row["model_hash"]
    begins_with_bos = bool(row["prepend_bos"]) if is_author else puts_bos_first(tokenizer)
    rows: list[list[int]] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        rows += token_rows(tokenizer, texts[start : start + TEXTS_AT_ONCE], prepend_bos=False)
    unigrams = unigram_log_probabilities(rows, model.get_input_embeddings().weight.shape[0])
    return LanguageJudge(name, LoadedModel(model, tokenizer, begins_with_bos), unigrams, is_author=is_author)


def puts_bos_first(tokenizer: object) -> bool:
    """Whether a tokenizer begins a text with BOS when it is not told otherwise."""
    ids = tokenizer("a", verbose=False)["input_ids"]  # type: ignore[operator]
    bare = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
    return len(ids) > len(bare) and ids[0] == bos_token_id(tokenizer)
