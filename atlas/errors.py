"""What can go wrong, in the user's terms.

    AtlasError            anything a user can put right
      PromptError         a text file is missing, empty, unreadable, not UTF-8, or lacks the column
      ModelError          a model, SAE or encoder cannot be loaded, or does not fit
      StoreError          no such atlas, not an atlas, another schema version, locked, unfinished, of another model
      UnknownName         topic, neuron, SAE, method, summary ...: the known ones, nearest first

Every message is one line: the thing, the value, the next step. Bugs keep their traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

LONGEST = 2000  # characters of a message
BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
UNSEEN = (
    re.compile(  # what a terminal obeys instead of showing: controls, marks of the writing direction, broken characters
        "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    )
)


def visible(text: str) -> str:
    """A text as one line that a terminal may have: breaks are spaces, and what it would obey is a mark each."""
    return UNSEEN.sub("\ufffd", BREAKS.sub(" ", text))


def shown(value: object, *, limit: int = 80) -> str:
    """A value of unknown origin for a message: as Python writes it, in ASCII, cut when it is long; of an object its kind."""
    if isinstance(value, list | dict):
        return f"a JSON {'array' if isinstance(value, list) else 'object'}"
    if isinstance(value, int) and abs(value) > 10**limit:
        return "a number of more digits than there are rows"
    text = ascii(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[:limit]} ..."


class AtlasError(Exception):
    """Anything a user can put right; its message is one line, whatever names are in it."""

    def __init__(self, message: str = "") -> None:
        text = visible(message)
        super().__init__(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")


class PromptError(AtlasError):
    """A file of texts cannot be used."""


class ModelError(AtlasError):
    """A language model, SAE or sentence encoder cannot be loaded, or does not fit."""


class StoreError(AtlasError):
    """The atlas file cannot be used as asked."""


class UnknownName(AtlasError):
    """A name that is not known here.

    Args:
        kind: what the name is of, such as "topic".
        name: what was asked for.
        known: the names there are; the message lists the five nearest.
        hint: the next step, added to the message.
    """

    def __init__(self, kind: str, name: object, known: Iterable[object], *, hint: str = "") -> None:
        nearest = sorted(map(str, known), key=lambda other: -SequenceMatcher(None, str(name), other).ratio())
        listed = ", ".join(nearest[:5]) + (", ..." if len(nearest) > 5 else "")
        text = f"unknown {kind} {str(name)!r}: " + (f"known are {listed}" if nearest else f"there is no {kind} yet")
        super().__init__(text + (f"; {hint}" if hint else ""))
