"""What can go wrong, in the user's terms.

    AtlasError            anything a user can put right
      PromptError         a text file is missing, empty, unreadable, not UTF-8, or lacks the column
      ModelError          a model, SAE or encoder cannot be loaded, or does not fit
      StoreError          no such atlas, not an atlas, another schema version, locked, unfinished, of another model
      UnknownName         topic, neuron, SAE, method, summary ...: the known ones, nearest first

Every message is one line: the thing, the value, the next step. Bugs keep their traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class AtlasError(Exception):
    """Anything a user can put right."""


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
