"""atlas choices"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from atlas.cli.options import device_option, model_options, sae_ids_option, vector_options
from atlas.cli.output import Progress, format_option, print_frame

if TYPE_CHECKING:
    import polars as pl


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("name")
@click.argument("pairs", type=click.Path())
@click.option(
    "--method", "methods", multiple=True, help="sas, dense or filtered; again for more.  [default: sas, dense]"
)
@click.option(
    "--strength",
    "strengths",
    multiple=True,
    type=float,
    help="Strength to try; again for more.  [default: -2, -1, -0.5, 0.5, 1, 2]",
)
@click.option(
    "--held-out",
    default=0.5,
    show_default=True,
    help="Share of the pairs to try, the vectors being made from the others; 1: try vector NAME as it is on all.",
)
@vector_options
@click.option("--sigma", default="own", show_default=True, help="Selection of sas: own (or sae), relu or none.")
@click.option("--topic", default=None, help="Whose scores filtered weighs neurons by.  [default: none]")
@click.option(
    "--ablations", is_flag=True, help="Try sas by its positive and its negative part, and with the error dropped."
)
@click.option("--texts", default=None, help="Unrelated texts, whose perplexity is the price.  [default: bundled]")
@sae_ids_option("the first")
@model_options
@device_option
@click.option("--seed", default=0, show_default=True, help="Seed of the random control.")
@format_option
def choices(
    atlas: str,
    name: str,
    pairs: str,
    methods: tuple[str, ...],
    strengths: tuple[float, ...],
    held_out: float,
    tau: float,
    position: str,
    sigma: str,
    topic: str | None,
    ablations: bool,
    texts: str | None,
    sae_ids: tuple[str, ...],
    model: str | None,
    release: str | None,
    device: str,
    seed: int,
    style: str,
) -> None:
    """Steer by vectors of behaviour NAME made from one part of PAIRS, and measure on the other how much more probable the
    model finds the completion that shows the behaviour than the other one. Results are stored in ATLAS.

    shift is the mean change of that probability with its 95 % interval; shift_prefixed the same with "The answer is"
    before the completion; perplexity_ratio what the steering does to the perplexity of unrelated texts. METHOD/random is
    the control: the same entries at other neurons, or a random direction.

    \b
    Example:
      atlas choices pocket.atlas praise praise.jsonl --strength 1 --strength -1
    """
    from atlas.pairs import read_pairs

    given = read_pairs(pairs)
    import atlas as library
    from atlas import pocket
    from atlas.choices import STRENGTHS, ChoiceConfig, evaluate_choices
    from atlas.prompts import read_texts
    from atlas.steerer import Steerer

    config = ChoiceConfig(strengths or STRENGTHS, tau, position, held_out, sigma, topic, ablations, seed)
    opened = library.open(atlas)
    progress = Progress()
    try:
        frame = evaluate_choices(
            opened,
            name,
            given,
            read_texts(texts or pocket.UNALIGNED).texts,
            methods=methods or ("sas", "dense"),
            config=config,
            sae_ids=sae_ids or None,
            steerer=Steerer(opened.store, model=model, release=release, device=device),
            progress=progress,
        )
    finally:
        progress.close()
    print_frame(frame if style != "table" else summarise(frame), style)


def summarise(frame: pl.DataFrame) -> pl.DataFrame:
    """A row per method and strength, with the figures side by side."""
    import polars as pl

    from atlas.choices import PREFIX

    def column(figure: str, name: str, *ends: str) -> list[pl.Expr]:
        own = pl.col("name") == figure
        return [pl.col("value").filter(own).first().alias(name)] + [
            pl.col(end).filter(own).first().alias(f"{name}_{end}") for end in ends
        ]

    return frame.group_by("method", "strength", maintain_order=True).agg(
        *column("probability", "probability"),
        *column("shift", "shift", "low", "high"),
        *column(f"shift after '{PREFIX}'", "shift_prefixed"),
        *column("perplexity", "perplexity"),
        *column("perplexity ratio", "perplexity_ratio"),
    )
