"""One text as it is generated: token by token, each with its contamination and what else might have stood there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atlas.models.loaded import LoadedModel
from atlas.steering.generation import Generation, Sampling, check_length, continued_rows
from atlas.steering.intervention import Steering

ALTERNATIVES = 5


@dataclass(frozen=True)
class Token:
    """A generated token.

    Attributes:
        text: what it adds to the text; empty for one whose character is not whole yet, and for special tokens.
        probability: the model's, steered as it was, whatever the sampling made of it.
        alternatives: the likeliest tokens at its place with their probabilities, likeliest first.
        contamination: the share of its code that is off topic; None for one that does not count, or was not read yet.
    """

    text: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    contamination: float | None = None


@dataclass(frozen=True)
class Streamed:
    """A text that was streamed.

    Attributes:
        generation: the text and its figures, as `generate` gives them.
        tokens: its tokens.
        stopped: whether it was stopped before its end.
    """

    generation: Generation
    tokens: tuple[Token, ...]
    stopped: bool


@torch.inference_mode()
def stream(
    model: LoadedModel,
    prompt: str,
    steering: Steering,
    *,
    sampling: Sampling,
    show: Callable[[Sequence[Token]], None],
    stopped: Callable[[], bool],
) -> Streamed:
    """Go on with a prompt under a steering method: the text that `generate` gives, shown as it grows.

    Args:
        model: the model that `steering` steers.
        prompt: what the model is given.
        steering: by what.
        sampling: how tokens are drawn.
        show: called with all tokens so far, before each next one.
        stopped: asked before each token whether to stop.
    """
    (ids,) = model.prompt_rows([prompt])
    check_length(prompt, len(ids), sampling.max_new_tokens, model.context)
    growing, halted = _Growing(model, len(ids)), False

    def watch(so_far: Tensor, logits: Tensor) -> bool:
        nonlocal halted
        growing.take(so_far[0].tolist(), logits[0], steering)
        show(growing.tokens)
        halted = stopped()
        return halted

    with steering:
        (row,) = continued_rows(model, [ids], [sampling.seed], sampling, watch=watch)
    growing.finish([*ids, *row], steering)
    show(growing.tokens)
    text = model.tokenizer.decode(row, skip_special_tokens=True)
    (purity,), (changes,) = steering.contamination(), steering.swapped()
    generation = Generation(steering.method, prompt, text, sampling.seed, purity, **changes)
    return Streamed(replace(generation, strength=steering.options.strength), tuple(growing.tokens), halted)


class _Growing:
    """The tokens of a text so far. Logits come before the token that is drawn from them."""

    def __init__(self, model: LoadedModel, start: int) -> None:
        self._tokenizer, self._start = model.tokenizer, start
        self.steps: list[Tensor] = []  # probabilities [vocabulary] of the next token, one at a time on the CPU
        self.tokens: list[Token] = []
        self._ids: list[int] = []
        self._shown = ""

    def take(self, ids: list[int], logits: Tensor, steering: Steering) -> None:
        """Take in the ids so far, and the logits for the next."""
        self._add(ids[self._start :])
        self._tint(steering)
        self.steps.append(logits.float().softmax(-1).cpu())

    def finish(self, ids: list[int], steering: Steering) -> None:
        """Take in the last token, and characters that it leaves unfinished."""
        self._add(ids[self._start :])
        self._tint(steering)
        rest = self._tokenizer.decode(self._ids, skip_special_tokens=True)[len(self._shown) :]
        if rest:
            self.tokens[-1] = replace(self.tokens[-1], text=self.tokens[-1].text + rest)

    def _add(self, ids: list[int]) -> None:
        for place in range(len(self._ids), len(ids)):
            self._ids.append(ids[place])
            whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
            piece = "" if whole.endswith("\ufffd") else whole[len(self._shown) :]
            self._shown += piece
            chances = self.steps[place]
            best = chances.topk(min(ALTERNATIVES, len(chances)))
            others = tuple(
                (self._tokenizer.decode([int(one)]), float(chance))
                for one, chance in zip(best.indices, best.values, strict=True)
            )
            self.tokens.append(Token(piece, float(chances[ids[place]]), others))
            self.steps[place] = chances[:0]  # is not needed any more

    def _tint(self, steering: Steering) -> None:
        rows = steering.token_contamination()
        if not rows:
            return
        for place, value in enumerate(rows[0][self._start :][: len(self.tokens)]):
            if value is not None and self.tokens[place].contamination is None:
                self.tokens[place] = replace(self.tokens[place], contamination=value)
