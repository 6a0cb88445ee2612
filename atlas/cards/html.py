"""What all cards share: the templates, escaped whoever wrote what they show; figures as texts; and whole pages.

Cards take the colours of the page they stand in, so that they can be read in a light and in a dark one. `style` has to stand on
the page once; `with_style` puts it beside a card, for a notebook, and `render_page` makes a page that needs nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import jinja2
from markupsafe import Markup

from atlas.errors import UNSEEN, StoreError

KEPT = "\n\t"  # of what UNSEEN has, in running text


def _nowhere(*_: Any) -> str | None:
    return None


@dataclass(frozen=True)
class Links:
    """Where the names on a card lead to.

    Attributes:
        neuron: sae_key and neuron -> an address, or None for no link.
        topic: name -> the same.
    """

    neuron: Callable[[int, int], str | None] = _nowhere
    topic: Callable[[str], str | None] = _nowhere


NO_LINKS = Links()


def style() -> str:
    """The CSS of all cards."""
    return files("atlas.cards").joinpath("templates", "style.css").read_text()


def with_style(card: str) -> str:
    """A card that can stand alone in another page, such as a notebook."""
    return f"<style>{style()}</style>{card}"


def render_page(title: str, cards: Iterable[str]) -> str:
    """A whole page of cards that needs no other file, and may load none."""
    body = Markup("\n".join(cards))
    return render("page.html", title=title, body=body, style=Markup(style()))


def write_page(path: str | Path, title: str, cards: Iterable[str]) -> None:
    """Write a page of cards into a new file.

    Raises:
        StoreError: it is there already, or cannot be written.
    """
    text = render_page(title, cards)
    try:
        with Path(path).open("x", encoding="utf-8", errors="replace") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise StoreError(f"{path} is there already: remove it, or name another file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be written ({reason}): name another file") from error


def number(value: float | int | None) -> str:
    """A figure with three decimals, more where it is small; the whole figure stands in a tooltip."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share in percent."""
    if share is None:
        return "–"
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %" if value >= 0.1 else f"{value:.2g} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")


def _seen(text: object) -> str:
    """A text as it can be shown: what would turn or hide others is a mark."""
    return UNSEEN.sub(lambda found: found[0] if found[0] in KEPT else "\ufffd", str(text))


def _token(text: object) -> str:
    """A token, with signs for breaks and tabs, which have no shape."""
    return _seen(re.sub(r"\r\n?|\n", "↵", str(text)).replace("\t", "⇥"))


def _place(name: str) -> str:
    """A model's, SAE's or encoder's name; of a folder of this machine its last part."""
    return PurePath(name).name if name.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", name) else name


def _short(hash_: str) -> str:
    return hash_[:10]


@cache
def _environment() -> jinja2.Environment:
    folder = files("atlas.cards").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, percent=percent, signed=_signed, seen=_seen, token=_token, place=_place, short=_short
    )
    return environment


def render(template: str, **values: Any) -> str:
    """A template with its values, each of them escaped."""
    return _environment().get_template(template).render(values).strip()
