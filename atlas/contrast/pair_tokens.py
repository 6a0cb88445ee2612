"""The two sides of a contrast pair as token ids, and where in them an activation is taken (method: section 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from atlas.errors import AtlasError
from atlas.models.chat import wrap_prompts
from atlas.models.tokens import token_rows, with_bos
from atlas.texts.pairs import PairSet, join_texts


@dataclass(frozen=True)
class Sides:
    """A contrast pair as the model sees it.

    Attributes:
        pair: number of the pair in its PairSet.
        positive: token ids of prompt and completion, BOS first where the SAE wants one.
        negative: the same with the other completion.
        start: first token that is not the prompt's alone.
        first: first token in which the two differ.
    """

    pair: int
    positive: list[int]
    negative: list[int]
    start: int
    first: int


@dataclass(frozen=True)
class CodePosition:
    """An entry of CODE_POSITIONS.

    Attributes:
        span: (sides, ids of one of them) -> the tokens whose mean is taken, as [begin, end).
        help: what it is, in a line.
    """

    span: Callable[[Sides, list[int]], tuple[int, int]]
    help: str


def last(sides: Sides, ids: list[int]) -> tuple[int, int]:
    """The last token."""
    return len(ids) - 1, len(ids)


def answer(sides: Sides, ids: list[int]) -> tuple[int, int]:
    """The first token in which the two completions differ; the last one where a side ends before."""
    place = min(sides.first, len(ids) - 1)
    return place, place + 1


def mean(sides: Sides, ids: list[int]) -> tuple[int, int]:
    """Every token of the completion."""
    return min(sides.start, len(ids) - 1), len(ids)


CODE_POSITIONS = {
    "last": CodePosition(last, "the last token"),
    "answer": CodePosition(answer, "the first token in which the two completions differ, such as an answer's letter"),
    "mean": CodePosition(mean, "the mean over the completion's tokens"),
}


def wrap_pairs(tokenizer: Any, pairs: PairSet, *, system: str | None = None) -> PairSet:
    """The pairs as a chat model reads them: prompts are what a user says, in the template, and completions its answers.

    An answer begins where the template ends: a space before it goes where the template ends in one, or in a new line.

    Args:
        tokenizer: the model's.
        pairs: every one with a prompt.
        system: a system message before it; None for what the template has by itself.

    Raises:
        AtlasError: a pair has no prompt, or the tokenizer no template.
    """
    for i, prompt in enumerate(pairs.prompts, start=1):
        if not prompt.strip():
            raise AtlasError(
                f"pair {i} has no prompt, and a chat begins with one: give it a prompt, or leave out --chat"
            )
    prompts = wrap_prompts(tokenizer, pairs.prompts, system=system)
    sides = (
        tuple(text.lstrip() if prompt[-1].isspace() else text for prompt, text in zip(prompts, texts, strict=True))
        for texts in (pairs.positives, pairs.negatives)
    )
    positives, negatives = sides
    return replace(pairs, prompts=tuple(prompts), positives=positives, negatives=negatives)


def tokenize_pairs(tokenizer: Any, pairs: PairSet, *, prepend_bos: bool, context: int) -> list[Sides]:
    """The pairs as token ids; those with a side longer than the context are left out.

    A cut side would lack its completion, so nothing is cut. Prompt and completion are tokenized in one piece.

    Raises:
        AtlasError: no pair fits.
    """

    def ids_of(texts: list[str]) -> list[list[int]]:
        return token_rows(tokenizer, texts, prepend_bos=prepend_bos)

    empty = with_bos(tokenizer, [], prepend_bos=prepend_bos)
    prompts = [empty if not prompt else ids_of([prompt])[0] for prompt in pairs.prompts]
    positives = ids_of([join_texts(prompt, text) for prompt, text, _ in pairs.rows()])
    negatives = ids_of([join_texts(prompt, text) for prompt, _, text in pairs.rows()])
    found = []
    for i, (prompt, positive, negative) in enumerate(zip(prompts, positives, negatives, strict=True)):
        if max(len(positive), len(negative)) > context or positive == negative:
            continue
        start = min(_common(prompt, positive), _common(prompt, negative))
        found.append(Sides(i, positive, negative, start, _common(positive, negative)))
    if not found:
        raise AtlasError(f"none of {len(pairs)} pairs fits into the context of {context} tokens: give shorter texts")
    return found


def _common(a: list[int], b: list[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
