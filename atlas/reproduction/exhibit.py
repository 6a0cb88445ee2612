"""What an exhibit is: rows, a line that says what they show, and their picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from atlas.reproduction.exhibit_inputs import ExhibitInputs

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


@dataclass(frozen=True)
class Exhibit:
    """A table or figure.

    Attributes:
        title: what it is, in a line.
        caption: what one sees, with units, and how to read it.
        compute: its rows; NotAvailable where something is missing.
        say: what the rows show, in a line.
        draw: its picture.
        paper: the paper's figure, where one is known; else empty.
        table: (index columns, column whose values become columns) of the table on the page; None for no table.
    """

    title: str
    caption: str
    compute: Callable[[ExhibitInputs], pl.DataFrame]
    say: Callable[[pl.DataFrame], str]
    draw: Callable[[pl.DataFrame], Picture]
    paper: str = ""
    table: tuple[tuple[str, ...], str] | None = None
