"""atlas match"""

from __future__ import annotations

import click
from atlas.cli.output import echo, format_option, print_frame, print_table


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("other", type=click.Path(), required=False)
@click.option("--sae-id", default=None, help="Which SAE of ATLAS, by id or key.  [default: the only one]")
@click.option("--to", default=None, help="Which SAE of OTHER, or of ATLAS, by id or key.  [default: the only other]")
@click.option("-n", default=20, show_default=True, type=click.IntRange(min=1), help="Rows of the table.")
@format_option
def match(atlas: str, other: str | None, sae_id: str | None, to: str | None, n: int, style: str) -> None:
    """For each neuron of an SAE of ATLAS find the one that is nearest in meaning in another SAE of ATLAS, or in one of OTHER.

    It goes by the cosine of the neurons' vectors less the mean embedding, so that layers and models can be compared; both
    atlases need the same sentence encoder. Neurons are mutual when each is the other's nearest. Neurons that fired on fewer
    than 20 prompts are left out. As a table, the closest are printed, mutual ones first; as JSON or CSV, all.

    \b
    Examples:
      atlas match pocket.atlas --sae-id 0 --to 1
      atlas match pocket.atlas smollm2.atlas --sae-id 0 --to 1 --format csv
    """
    import polars as pl

    import atlas as library

    found = library.open(atlas).match(other, sae_id=sae_id, to=to)
    if style != "table":
        print_frame(found, style)
        return
    mutual, median = found.select(pl.col("mutual").sum(), pl.col("cosine").median()).row(0)
    echo(f"{found.height:,} neurons, {mutual:,} of them mutual; median cosine {median:.3f}\n")
    best = found.sort(pl.col("mutual"), pl.col("cosine"), descending=True).head(n)
    names = ("neuron", "other_neuron", "cosine", "mutual", "label", "other_label")
    print_table(best.select(name for name in names if best[name].count()))
