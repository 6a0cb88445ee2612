"""atlas map"""

from __future__ import annotations

from contextlib import closing

import click
from atlas.cli.output import Progress, echo, format_option, print_frame, print_table


@click.command()
@click.argument("atlas", type=click.Path())
@click.option(
    "--basis",
    default="vectors",
    show_default=True,
    help="What is alike: vectors (meaning; all SAEs on one map) or decoder (what neurons write; a map per SAE).",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=None,
    help="Of the random numbers.  [default: 0, or that of a map there]",
)
@click.option("--again", is_flag=True, help="Make it anew, even where there is one of today's neurons.")
@click.option(
    "--release", default=None, help="Where the SAEs are now, for basis decoder.  [default: as they were built]"
)
@format_option
def map(atlas: str, basis: str, seed: int | None, again: bool, release: str | None, style: str) -> None:
    """Give every neuron of ATLAS a place on a map, so that neurons that are alike lie together, and store it in the table `map`.

    A map is made once; it is made again when prompts or SAEs were added. It takes umap-learn: pip install
    'neuron-atlas[explore]'. As a table, what each SAE has on the map is printed; as JSON or CSV, every neuron's place.

    \b
    Examples:
      atlas map pocket.atlas
      atlas map pocket.atlas --basis decoder --format csv
    """
    import polars as pl

    import atlas as library

    opened = library.open(atlas)
    with closing(Progress()) as progress:
        found = opened.map(basis, seed=seed, again=again, release=release, progress=progress)
    if style != "table":
        print_frame(found, style)
        return
    print_table(
        found.group_by("sae_key", "sae_id", maintain_order=True).agg(neurons=pl.len(), labels=pl.col("label").count())
    )
    echo(
        f"{found.height:,} neurons are on the map of {basis}: atlas query {atlas} \"from map where basis = '{basis}'\""
    )
