"""Read contrast pairs: what a prompt goes on with when a behaviour shows, and when its opposite does (method: section 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from atlas.errors import PromptError, shown
from atlas.texts.prompts import is_blank, read_table, require_file, require_text

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
FORMATS = (  # columns of the prompt, the completion that shows the behaviour, and the one that shows the opposite
    ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
    ("question", "matching", "not_matching"),
    ("prompt", "positive", "negative"),
)


@dataclass(frozen=True)
class PairSet:
    """Distinct contrast pairs in file order.

    Attributes:
        prompts: what both sides begin with; may be empty.
        positives: the completion that shows the behaviour.
        negatives: the completion that shows the opposite.
        duplicates: pairs dropped because they had come before.
    """

    prompts: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self) -> list[tuple[str, str, str]]:
        """(prompt, positive, negative) per pair."""
        return list(zip(self.prompts, self.positives, self.negatives, strict=True))


def read_pairs(path: str | Path) -> PairSet:
    """Read a .jsonl, .json, .csv or .parquet file whose columns are one of FORMATS; the last may lack the prompt.

    Raises:
        PromptError: the file is missing, unreadable, not UTF-8, without such columns or without a pair, or a pair lacks
            a side or has two equal ones.
    """
    path = require_file(path, f"name a {', '.join(ENDINGS)} file of contrast pairs")
    if path.suffix.lower() not in ENDINGS:
        raise PromptError(f"{path}: unknown ending {path.suffix!r}, use one of {', '.join(ENDINGS)}")
    table = read_table(path)
    columns = next((names for names in FORMATS if set(names[1:]) <= set(table.columns)), None)
    if columns is None or (columns[0] not in table.columns and columns != FORMATS[-1]):
        accepted = "; ".join(", ".join(names) for names in FORMATS)
        raise PromptError(f"{path} has columns {', '.join(table.columns)[:300]}: contrast pairs need {accepted}")
    sides = [table.texts(name) for name in columns if name in table.columns]
    texts = sides if len(sides) == len(columns) else [[None] * len(sides[0]), *sides]
    return collect_pairs(zip(*texts, strict=True), origin=str(path))


def collect_pairs(rows: Iterable[tuple[str | None, str | None, str | None]], *, origin: str = "pairs") -> PairSet:
    """Drop repeated pairs (prompt, positive, negative); PromptError for one without two different sides, or none at all."""
    if isinstance(rows, str | bytes | bytearray) or not isinstance(rows, Iterable):
        raise PromptError(f"{origin}: give a list of (prompt, positive, negative), not {shown(rows)}")
    kept: dict[tuple[str, str, str], None] = {}
    count = 0
    for count, row in enumerate(rows, start=1):
        prompt, positive, negative = _three_texts(row, f"{origin}: pair {count}")
        for side, text in (("positive", positive), ("negative", negative)):
            if is_blank(text):
                raise PromptError(f"{origin}: pair {count} has no {side} text, give both sides of every pair")
        if positive == negative:
            raise PromptError(f"{origin}: both sides of pair {count} are the same text, give two that differ")
        kept[prompt or "", str(positive), str(negative)] = None
    if not kept:
        raise PromptError(f"{origin}: no pair in it, give at least one")
    prompts, positives, negatives = zip(*kept, strict=True)
    return PairSet(prompts, positives, negatives, count - len(kept))


def _three_texts(row: object, place: str) -> tuple[str | None, str | None, str | None]:
    if not isinstance(row, tuple | list) or len(row) != 3:
        raise PromptError(f"{place} is {shown(row)}: give (prompt, positive, negative)")
    for text in row:
        require_text(text, place)
    prompt, positive, negative = row
    return prompt, positive, negative


def pair_texts(positives: Sequence[str], negatives: Sequence[str]) -> PairSet:
    """Texts about a topic against others, as pairs without a prompt; the fewer of the two are taken again and again.

    Raises:
        PromptError: there is none of either.
    """
    for name, texts in (("positive", positives), ("negative", negatives)):
        if not texts:
            raise PromptError(f"there is no {name} text to make pairs of: give at least one")
    count = max(len(positives), len(negatives))
    return collect_pairs(("", positives[i % len(positives)], negatives[i % len(negatives)]) for i in range(count))


def split_pairs(pairs: PairSet, share: float) -> tuple[PairSet | None, PairSet | None]:
    """The pairs to make vectors from, and those held out; None for an empty part.

    Held out are the floor(n · share) pairs whose texts have the highest SHA-256. Which ones depends on no pair's place: in
    files where every second answer is "(A)", every second pair would be a sample of one kind.
    """
    rows = pairs.rows()
    highest = sorted(range(len(rows)), key=lambda i: sha256("\0".join(rows[i]).encode()).digest(), reverse=True)
    held_out = set(highest[: math.floor(len(rows) * share + 1e-9)])
    parts = [[row for i, row in enumerate(rows) if (i in held_out) is wanted] for wanted in (False, True)]
    made, held = (collect_pairs(part) if part else None for part in parts)
    return made, held


def join_texts(prompt: str, completion: str) -> str:
    """A prompt with its completion, a space between them where neither brings one."""
    apart = not prompt or prompt[-1].isspace() or completion[:1].isspace()
    return prompt + completion if apart else f"{prompt} {completion}"
