"""The words and short phrases of texts that could label something: which there are, and which text has which."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
WORDS = 3  # of the longest phrase
LETTERS = 3  # of the shortest word
LEAST = 3  # texts that a term must stand in, or it tells nothing of others
COMMON = 0.05  # share of the texts beyond which a word is one of grammar: no term, nor an end of one
SPARED = 10  # texts in which any word may stand, however few texts there are
TERMS = 20_000  # at most; the ones that stand in the most texts


@dataclass(frozen=True)
class Terms:
    """Words and phrases of texts.

    Attributes:
        names: the terms, in lower case.
        occurrences: 1 where a term stands in a text [text, term].
    """

    names: tuple[str, ...]
    occurrences: sparse.csr_array


def collect_terms(texts: Sequence[str]) -> Terms:
    """The terms of some texts, those of the most texts first. Texts are read twice, and only the counts are kept."""
    from scipy import sparse

    words = Counter(word for text in texts for word in set(split_words(text)))
    common = {word for word, count in words.items() if count > max(COMMON * len(texts), SPARED)}
    counts = Counter(term for text in texts for term in terms_of(text, common, words))
    kept = sorted((term for term, count in counts.items() if count >= LEAST), key=lambda term: (-counts[term], term))
    place = {term: number for number, term in enumerate(kept[:TERMS])}
    rows, columns = list[int](), list[int]()
    for row, text in enumerate(texts):
        found = sorted(place[term] for term in terms_of(text, common, words) if term in place)
        rows += [row] * len(found)
        columns += found
    ones = np.ones(len(rows), dtype=np.float32)
    return Terms(tuple(place), sparse.csr_array((ones, (rows, columns)), shape=(len(texts), len(place))))


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def terms_of(text: str, common: set[str], counts: Counter[str]) -> set[str]:
    """A text's words and phrases that do not begin or end with a common word, and of which no word is rare."""
    return set(_phrases(split_words(text), common, counts))


def _phrases(words: list[str], common: set[str], counts: Counter[str]) -> Iterator[str]:
    for start, first in enumerate(words):
        for length in range(1, WORDS + 1):
            phrase = words[start : start + length]
            if len(phrase) < length or counts[phrase[-1]] < LEAST:
                break
            if first not in common and phrase[-1] not in common and (length > 1 or len(first) >= LETTERS):
                yield " ".join(phrase)
