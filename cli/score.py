"""atlas score"""

from __future__ import annotations

from pathlib import Path

import click
from atlas.cli.output import format_option, print_frame

from atlas.errors import PromptError
from atlas.prompts import ENDINGS


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic", required=False)
@click.argument("texts", required=False, type=click.Path())
@click.option(
    "--topics", "folder", type=click.Path(), help="Score every file of this folder as a topic named after it."
)
@click.option(
    "--summary", default="mean", show_default=True, help="Weight of a prompt for a neuron: mean, max or count."
)
@click.option("--distance", default="euclidean", show_default=True, help="Distance of embeddings: euclidean or cosine.")
@click.option("--power", default=2.0, show_default=True, help="Exponent of the distance.")
@click.option("--min-support", default=20, show_default=True, help="Neurons that fired on fewer prompts get no score.")
@click.option("--sae-id", default=None, help="Which SAE, by id or key.  [default: all]")
@click.option("--text-column", default=None, help="Column of the texts.  [default: text, else prompt]")
@click.option("--encoder", default=None, help="Where the atlas's sentence encoder is now.  [default: as it was built]")
@click.option("--replace", is_flag=True, help="Give a topic that exists these texts instead of its own.")
@click.option(
    "-n", default=5, show_default=True, type=click.IntRange(min=1), help="Neurons to print per topic and SAE."
)
@format_option
def score(
    atlas: str,
    topic: str | None,
    texts: str | None,
    folder: str | None,
    summary: str,
    distance: str,
    power: float,
    min_support: int,
    sae_id: str | None,
    text_column: str | None,
    encoder: str | None,
    replace: bool,
    n: int,
    style: str,
) -> None:
    """Score every neuron of ATLAS for TOPIC by the texts in TEXTS, store the scores, and print the best neurons.

    \b
    Examples:
      atlas score pocket.atlas medicine medicine.txt
      atlas score pocket.atlas --topics topics/
    """
    if (folder is None) == (topic is None or texts is None):
        raise click.UsageError("give TOPIC and TEXTS, or --topics FOLDER")
    from atlas.prompts import read_texts

    files = {topic: Path(texts)} if topic is not None and texts is not None else topic_files(Path(str(folder)))
    sets = {name: read_texts(path, text_column=text_column) for name, path in files.items()}
    import polars as pl

    import atlas as library

    opened = library.open(atlas)
    opened.score_many(
        sets,
        sae_id=sae_id,
        replace=replace,
        encoder=encoder,
        summary=summary,
        distance=distance,
        power=power,
        min_support=min_support,
    )
    frame = pl.concat([opened.top(name, n, sae_id=sae_id) for name in sets])
    if style == "table":
        frame = frame.select("topic", "sae_id", "neuron", "score", "support", "fires_on", "top_tokens")
    print_frame(frame, style)


def topic_files(folder: Path) -> dict[str, Path]:
    """Topic name -> file, for the text files of a folder; PromptError when it has none."""
    if not folder.is_dir():
        raise PromptError(f"no such folder {folder}: name one that holds a file of texts per topic")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS}
    if not files:
        raise PromptError(f"{folder} holds no {', '.join(ENDINGS)} file: put one per topic there")
    return files
