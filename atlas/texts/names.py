"""What a topic or a behaviour may be called: anything that a person can read, type and tell apart."""

from __future__ import annotations

from atlas.errors import AtlasError, shown, visible
from atlas.texts.prompts import is_blank

LONGEST = 200
JOINED = " + "  # between the names of several behaviours whose vectors are added up (atlas.steering.calibrations)


def require_name(kind: str, name: object) -> None:
    """Raise AtlasError for a name that cannot be read, typed or told from others.

    Any words in any script will do, quotes, brackets and JSON too: a name is never part of an SQL text.

    Args:
        kind: what it is of: topic or behaviour.
        name: the name.
    """
    reason = _fault(kind, name)
    if reason:
        raise AtlasError(f"{kind} name {shown(name)} {reason}: choose another, such as medicine")


def _fault(kind: str, name: object) -> str:
    if not isinstance(name, str):
        return "is no text"
    if is_blank(name):
        return "is empty or shows nothing"
    if name == "-":
        return "stands for no topic on the command line"
    if len(name) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if name != visible(name):
        return "holds a line break or another character that does not show"
    if name != name.strip():
        return "begins or ends with a space"
    if kind == "behaviour" and JOINED in name:
        return f"holds {JOINED!r}, which joins the names of several"
    return ""
