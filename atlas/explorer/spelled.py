"""SQL as a visitor reads and copies it: our queries with their parameters written in, so that `atlas query` runs them alike."""

from __future__ import annotations

import re
from typing import Any

from atlas.store.contents import read_sql
from atlas.store.database import quote

COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
PARAMETER = re.compile(r"\$([a-z_]+)")
LONG = 5  # numbers of a list that are shown


def literal(value: Any) -> str:
    """A value as SQL has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return quote(value) if isinstance(value, str) else repr(value)


def spelled(name: str, **parameters: Any) -> str:
    """The text of a query of sql/ with its parameters written in, without its comment."""
    return PARAMETER.sub(lambda found: literal(parameters[found[1]]), COMMENT.sub("", read_sql(name))).strip()


def shortened(sql: str) -> str:
    """An SQL text without most of the numbers of its embeddings, to be shown."""

    def cut(found: re.Match[str]) -> str:
        numbers = found[1].split(", ")
        return found[0] if len(numbers) <= LONG else f"[{', '.join(numbers[:3])}, ... {len(numbers) - 3} more]"

    return re.sub(r"\[((?:-?[\d.e+-]+, )*-?[\d.e+-]+)\]", cut, sql)
