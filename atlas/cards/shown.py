"""Frames that show themselves as cards in a notebook, and are Polars frames for everything else."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl


class ShownFrame(pl.DataFrame):
    """A Polars frame that a notebook shows as a card. What is made of it is shown as Polars shows frames."""

    _card: Callable[[pl.DataFrame], str] | None = None
    _made: tuple[int, list[str]] = (0, [])

    def _repr_html_(self, *options: object, **settings: object) -> str:
        if self._card is None or self._made != (self.height, self.columns):  # rows or columns were changed in place
            return super()._repr_html_(*options, **settings)  # type: ignore[arg-type]
        from atlas.cards.html import with_style

        return with_style(self._card(self))


def show_as(frame: pl.DataFrame, card: Callable[[pl.DataFrame], str]) -> pl.DataFrame:
    """The same frame; a notebook shows it by `card`, which is called only then."""
    made = ShownFrame(frame)
    made._card, made._made = card, (frame.height, frame.columns)
    return made


def show_top(frame: pl.DataFrame, title: str, subtitle: str = "") -> pl.DataFrame:
    """Ranked neurons that show themselves."""

    def card(own: pl.DataFrame) -> str:
        from atlas.cards.rendering import render_topic

        return render_topic(own, title, subtitle=subtitle)

    return show_as(frame, card)


def show_why(frame: pl.DataFrame, title: str) -> pl.DataFrame:
    """The prompts behind a score that show themselves."""

    def card(own: pl.DataFrame) -> str:
        from atlas.cards.rendering import render_why

        return render_why(own, title)

    return show_as(frame, card)


def show_steer(frame: pl.DataFrame, title: str) -> pl.DataFrame:
    """Generated texts that show themselves side by side."""

    def card(own: pl.DataFrame) -> str:
        from atlas.cards.rendering import render_steer

        return render_steer(own.to_dicts(), title)

    return show_as(frame, card)
