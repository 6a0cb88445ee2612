"""atlas label"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click
from atlas.cli.options import encoder_option
from atlas.cli.output import Progress, echo, format_option, print_frame, print_table

if TYPE_CHECKING:
    import polars as pl

    from atlas.api import Atlas

DRAWN = 10  # labels that are shown


@click.command()
@click.argument("atlas", type=click.Path())
@click.option(
    "--from",
    "path",
    type=click.Path(),
    default=None,
    help="Import Neuronpedia's explanations from this file or folder.",
)
@click.option(
    "--sae-id", default=None, help="Which SAE, by id or key.  [default: all; with --from the one of their id]"
)
@click.option(
    "--compare", is_flag=True, help="Measure tokens and random words beside the labels, on 200 neurons per SAE."
)
@encoder_option
@format_option
def label(atlas: str, path: str | None, sae_id: str | None, compare: bool, encoder: str | None, style: str) -> None:
    """Label every neuron of ATLAS by a few words of the prompts it fires on, and say how good the labels are.

    A label's quality is measured on prompts kept out of its making: how often one of the ten on which the neuron fires most is
    closer to the label than another prompt is (AUROC; 0.5 is chance). Labels of 0.75 or more are shown by top, why and search
    in the place of tokens; all are in the table `labels`. As a table, ten are printed, drawn at random; as JSON or CSV, all.

    With --from, labels are not made but imported: from a .jsonl or .jsonl.gz file of Neuronpedia's exports (such as
    explanations/batch-0.jsonl.gz), or a folder of them. They are shown before labels of words whatever their quality, which is
    measured as that of the others.

    \b
    Examples:
      atlas label pocket.atlas
      atlas label pocket.atlas --sae-id 0 --compare
      atlas label gpt2.atlas --from explanations/
    """
    import atlas as library

    if path is not None and compare:
        raise click.UsageError("--compare is about labels of words: leave it out with --from")
    opened = library.open(atlas)

    def tell(line: str) -> None:
        echo(line, err=True)

    if path is not None:
        show(opened, opened.import_labels(path, sae_id=sae_id, encoder=encoder, tell=tell), None, style)
        return
    with closing(Progress()) as progress:
        found = opened.label(sae_id=sae_id, encoder=encoder, tell=tell, progress=progress)
        compared = opened.compare_labels(sae_id=sae_id, encoder=encoder, tell=tell) if compare else None
    show(opened, found, compared, style)


def show(opened: Atlas, found: pl.DataFrame, compared: pl.DataFrame | None, style: str) -> None:
    """Print labels: all of them, or as a table their figures and some of them."""
    if style != "table":
        print_frame(found, style)
        return
    print_table(summarise(found))
    if compared is not None:
        echo("\nquality of the mean embedding of:")
        print_table(compared)
    echo(f"\n{min(DRAWN, found.height)} labels, drawn at random:")
    print_table(draw(opened, found))


def summarise(found: pl.DataFrame) -> pl.DataFrame:
    """How many neurons of each SAE have a label, and what the labels are worth."""
    import polars as pl

    quality = pl.col("quality")
    return found.group_by("sae_id", maintain_order=True).agg(
        labels=pl.len(),
        measured=quality.count(),
        shown=pl.col("shown").sum(),
        lowest_tenth=quality.quantile(0.1),
        median=quality.median(),
        highest_tenth=quality.quantile(0.9),
    )


def draw(opened: Atlas, found: pl.DataFrame) -> pl.DataFrame:
    """Some labels with the tokens that their neurons fire on; the same in every run."""
    import polars as pl

    some = found.sample(min(DRAWN, found.height), seed=0).sort("sae_key", "neuron")
    tokens = [
        opened.examples(row["neuron"], sae_id=row["sae_key"])["token"]
        .str.strip_chars()
        .unique(maintain_order=True)
        .to_list()
        for row in some.iter_rows(named=True)
    ]
    shown = some.with_columns(fires_on=pl.Series([own[:5] for own in tokens], dtype=pl.List(pl.String)))
    return shown.select("sae_id", "neuron", "quality", "label", "fires_on")
