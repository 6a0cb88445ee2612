"""A scatter of neurons: drawn by static/scatter.js, and told to Python by the numbers of its points."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import polars as pl
from nicegui import ui

from atlas.explorer.visit import Visit

_numbers = count()
PLOTLY = "/_atlas_plotly.js"
Pick = Callable[[list[int], int], Awaitable[None]]  # the first points that were picked, and how many there were


@dataclass(frozen=True)
class Look:
    """How points look.

    Attributes:
        x, y: what the axes are called; empty for one that means nothing by itself.
        name: what the colour is; empty for points of one colour.
        low, high: the ends of the colour scale.
        scale: Plotly's name of the scale; empty for points of one colour.
        reverse: whether low values have the strong colour.
        size: of a point, in pixels.
        opacity: of a point.
        square: whether a step on x is as long as one on y.
    """

    x: str = ""
    y: str = ""
    name: str = ""
    low: float = 0.0
    high: float = 1.0
    scale: str = ""
    reverse: bool = False
    size: float = 5.0
    opacity: float = 0.8
    square: bool = False


class Scatter:
    """A scatter on a page.

    Args:
        visit: the atlas; it keeps the points for the browser.
        pick: called with the numbers of the points that were clicked or lassoed.
        hover: called with the number of the point that is pointed at.
    """

    def __init__(self, visit: Visit, *, pick: Pick, hover: Callable[[int], Awaitable[None]]) -> None:
        self._visit, self.id = visit, f"scatter{next(_numbers)}"
        ui.add_head_html(f'<script src="{PLOTLY}"></script>')
        self._place = ui.element("div").classes("plot").props(f'id="{self.id}" data-testid="scatter"')
        ui.on(f"{self.id}-hover", lambda event: hover(int(event.args)))
        ui.on(f"{self.id}-pick", lambda event: pick(*_picked(event.args)))

    def draw(self, points: pl.DataFrame, look: Look) -> None:
        """Draw the points x, y and colour of a frame."""
        self._call("draw", self._url(points), look)

    def show(self, shown: bool) -> None:
        """Take the place of the points, or leave it to what stands below."""
        self._place.set_visibility(shown)

    def recolour(self, points: pl.DataFrame, look: Look) -> None:
        """Give the same points other colours."""
        self._call("recolour", self._url(points), look)

    def highlight(self, numbers: Sequence[int] | None) -> None:
        """Let all but some points fade; none for None."""
        shown = None if numbers is None else list(numbers)
        self._run(f"highlight({json.dumps(self.id)}, {json.dumps(shown)})")

    def _url(self, points: pl.DataFrame) -> str:
        return f"/_atlas_points/{self._visit.points.put(points)}"

    def _call(self, name: str, url: str, look: Look) -> None:
        self._run(f"{name}({json.dumps(self.id)}, {json.dumps(url)}, {script_json(asdict(look))})")

    def _run(self, call: str) -> None:
        ui.run_javascript(f"import('/_atlas/scatter.js').then((scatter) => scatter.{call})")


def script_json(value: Any) -> str:
    """A value as JavaScript has it, that ends no script whatever is in it."""
    return json.dumps(value).replace("<", "\\u003c")


def _picked(given: Any) -> tuple[list[int], int]:
    """What the browser says of picked points; nothing of what it should not."""
    numbers = given.get("numbers", []) if isinstance(given, dict) else []
    return [number for number in numbers if isinstance(number, int) and number >= 0], int(given.get("count", 0))


def colour_range(values: pl.Series, *, tail: float = 0.005) -> tuple[float, float]:
    """The ends of a colour scale: all values but the furthest, which would take the colours from the others."""
    known = values.drop_nulls().drop_nans()
    if known.is_empty():
        return 0.0, 1.0
    low, high = known.quantile(tail), known.quantile(1 - tail)
    assert low is not None and high is not None  # noqa: S101 - there are values
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1)
