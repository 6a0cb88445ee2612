"""atlas reproduce"""

from __future__ import annotations

from pathlib import Path

import click
from atlas.cli.options import device_option, encoder_option, model_options
from atlas.cli.output import Progress, echo, format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder for the tables, figures and the page index.html.")
@click.option("--topic", default=None, help="Topic of those that show one.  [default: medicine, else the first]")
@click.option("--only", multiple=True, help="Make this one, such as figure_3; again for more.  [default: all]")
@click.option("--redo", is_flag=True, help="Make again what is there.")
@click.option(
    "--held-out",
    type=click.Path(),
    help="Folder with a file of texts per topic, none of which it was scored by.  [default: the bundled]",
)
@click.option("--unaligned", type=click.Path(), help="Everyday texts about none of the topics.  [default: the bundled]")
@click.option("--prompts", type=click.Path(), help="Openings to generate from.  [default: the bundled]")
@click.option(
    "--pairs", type=click.Path(), help="Folder with a file of contrast pairs per behaviour.  [default: bundled]"
)
@click.option(
    "--subjects",
    type=click.Path(),
    help="Texts about narrow subjects, named in the column source.  [default: the bundled prompts]",
)
@click.option("--finetune", type=click.Path(), help="Folder of fine-tuned models.  [default: leave them out]")
@encoder_option
@model_options
@device_option
@format_option
def reproduce(
    atlas: str,
    out: str,
    topic: str | None,
    only: tuple[str, ...],
    redo: bool,
    held_out: str | None,
    unaligned: str | None,
    prompts: str | None,
    pairs: str | None,
    subjects: str | None,
    finetune: str | None,
    encoder: str | None,
    model: str | None,
    release: str | None,
    device: str,
    style: str,
) -> None:
    """Make the papers' tables and figures from ATLAS: a CSV and a picture each, and one page, index.html, that shows them all
    beside the papers' figures.

    ATLAS is only read. What is in the folder already is kept, so that a stopped run goes on. What cannot be made here stands
    on the page with the command that would make it.

    \b
    Example:
      atlas reproduce pocket.atlas --out exhibits
    """
    from atlas.cli.texts import read_test_texts

    import atlas as library
    from atlas.reproduction.exhibit_inputs import ModelLocations
    from atlas.reproduction.reproduce import make_exhibits

    opened = library.open(atlas)
    progress = Progress()
    try:
        frame = make_exhibits(
            opened,
            out,
            read_test_texts(held_out, unaligned, prompts, pairs, subjects),
            topic=topic,
            only=only,
            redo=redo,
            locations=ModelLocations(model, release, encoder, device),
            finetuned=None if finetune is None else Path(finetune),
            progress=progress,
        )
    finally:
        progress.close()
    print_frame(frame.drop("ours") if style == "table" else frame, style)
    if style == "table":
        echo(f"\nOpen {Path(out) / 'index.html'}")
