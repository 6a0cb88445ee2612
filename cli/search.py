"""atlas search"""

from __future__ import annotations

import click
from atlas.cli.labelled import labelled, tokens_option
from atlas.cli.options import encoder_option
from atlas.cli.output import echo, format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("--file", type=click.Path(), default=None, help="Search for the texts of this file.")
@click.option("--text-column", default=None, help="Column of the texts in it.  [default: text, else prompt]")
@click.option("-n", default=10, show_default=True, type=click.IntRange(min=1), help="Neurons per SAE.")
@click.option("--by", default="z", show_default=True, help="Order: z (against random texts), or score.")
@click.option("--sae-id", default=None, help="Which SAE, by id or key.  [default: all]")
@tokens_option
@encoder_option
@format_option
def search(
    atlas: str,
    texts: tuple[str, ...],
    file: str | None,
    text_column: str | None,
    n: int,
    by: str,
    sae_id: str | None,
    tokens: bool,
    encoder: str | None,
    style: str,
) -> None:
    """Find the neurons of ATLAS that are closest to TEXT in meaning; several texts are searched for as one topic.

    Each neuron has a vector, the mean embedding of the prompts it fires on. Z says how much closer to the texts it is than to
    random ones, score how close; both are those of `atlas score --scorer centroid`. Nothing is stored.

    \b
    Examples:
      atlas search pocket.atlas "a pain in the chest"
      atlas search pocket.atlas "green tea" "tea leaves are dried" --by score -n 5
    """
    import atlas as library

    if (file is None) == (not texts):
        raise click.UsageError("give one TEXT or more, or --file FILE")
    from atlas.texts.prompts import read_texts

    given = list(texts) if file is None else read_texts(file, text_column=text_column)
    opened = library.open(atlas)
    frame = opened.search(given, n, sae_id=sae_id, by=by, encoder=encoder, tell=lambda line: echo(line, err=True))
    if style == "table":
        frame = labelled(frame, "sae_id", "rank", "neuron", "z", "score", "support", tokens=tokens)
    print_frame(frame, style)
