"""Neurons in a table: by their labels, or by their tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from atlas.store.cells import flatten_lists

if TYPE_CHECKING:
    import polars as pl

TOKENS = ("fires_on", "top_tokens")
tokens_option = click.option(
    "--tokens", is_flag=True, help="Print the tokens too where neurons have labels (made by `atlas label`)."
)


def labelled(frame: pl.DataFrame, *columns: str, tokens: bool = False) -> pl.DataFrame:
    """These columns, and what the neurons stand for.

    Labels, and in brackets the tokens that a neuron without one fires on; with `tokens` the labels and all tokens; the tokens
    alone where no neuron has a label.
    """
    import polars as pl

    if not frame["label"].count():
        return frame.select(*columns, *TOKENS)
    if tokens:
        return frame.select(*columns, "label", *TOKENS)
    fires_on = flatten_lists(frame.select("fires_on"))["fires_on"]
    return frame.select(*columns, pl.coalesce("label", pl.format("({})", fires_on)).alias("label"))


def outdated_lines(outdated: Iterable[tuple[int, str, bool]]) -> list[str]:
    """What is to be said of labels, given the rows of sql/meaning/outdated_labels.sql."""
    said = {True: "were made before its last prompts were read", False: "are missing"}
    return [f"labels of SAE {key} ({name}) {said[old]}: `atlas label` makes them" for key, name, old in outdated]
