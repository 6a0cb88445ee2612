"""atlas score"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
from atlas.cli.engine import engine_options, open_to_score
from atlas.cli.labelled import labelled
from atlas.cli.options import encoder_option, model_options
from atlas.cli.output import Progress, echo, format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic", required=False)
@click.argument("texts", required=False, type=click.Path())
@click.option(
    "--topics", "folder", type=click.Path(), help="Score every file of this folder as a topic named after it."
)
@click.option(
    "--scorer",
    default="distance",
    show_default=True,
    help="distance, centroid, contrast, strawman or output (see README).",
)
@click.option(
    "--summary", default="mean", show_default=True, help="Weight of a prompt for a neuron: mean, max or count."
)
@click.option("--distance", default="euclidean", show_default=True, help="Distance of embeddings: euclidean or cosine.")
@click.option("--power", default=2.0, show_default=True, help="Exponent of the distance.")
@click.option("--min-support", default=20, show_default=True, help="Neurons that fired on fewer prompts get no score.")
@click.option("--null-topics", default=64, show_default=True, help="Random topics that z is measured against; 0: no z.")
@click.option(
    "--bootstraps",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Samples of the prompts to measure the ranking's stability by.",
)
@click.option("--candidates", default=300, show_default=True, help="Best neurons by distance that scorer output tries.")
@click.option("--sae-id", default=None, help="Which SAE, by id or key.  [default: all]")
@click.option("--text-column", default=None, help="Column of the texts.  [default: text, else prompt]")
@encoder_option
@model_options
@click.option("--replace", is_flag=True, help="Give a topic that exists these texts instead of its own.")
@click.option(
    "-n", default=5, show_default=True, type=click.IntRange(min=1), help="Neurons to print per topic and SAE."
)
@engine_options
@click.option(
    "--into",
    default=None,
    type=click.Path(),
    help="Engine spark: the atlas to store the scores in.  [default: none, they are printed only]",
)
@format_option
def score(
    atlas: str,
    topic: str | None,
    texts: str | None,
    folder: str | None,
    scorer: str,
    summary: str,
    distance: str,
    power: float,
    min_support: int,
    null_topics: int,
    bootstraps: int,
    candidates: int,
    sae_id: str | None,
    text_column: str | None,
    encoder: str | None,
    model: str | None,
    release: str | None,
    replace: bool,
    n: int,
    engine: str,
    master: str,
    into: str | None,
    style: str,
) -> None:
    """Score every neuron of ATLAS for TOPIC by the texts in TEXTS, store the scores, and print the best neurons.

    Scorer contrast and strawman run the language model over the texts, scorer output over the best neurons by distance.

    \b
    Examples:
      atlas score pocket.atlas medicine medicine.txt
      atlas score pocket.atlas --topics topics/
      atlas score pocket-parquet medicine medicine.txt --engine spark --into pocket.atlas
    """
    if (folder is None) == (topic is None or texts is None):
        raise click.UsageError("give TOPIC and TEXTS, or --topics FOLDER")
    if engine == "spark" and scorer == "output" and into is None:
        raise click.UsageError(
            "--scorer output tries the best neurons by distance: name the atlas that has them, with --into"
        )
    if engine != "spark" and into is not None:
        raise click.UsageError("--into goes with --engine spark: without it, scores are stored in ATLAS")
    from atlas.texts.prompts import list_files, read_texts

    files = {topic: Path(texts)} if topic is not None and texts is not None else list_files(Path(str(folder)))
    sets = {name: read_texts(path, text_column=text_column) for name, path in files.items()}
    from atlas.scoring.scorers import SCORERS

    probe = None
    with closing(Progress()) as progress, open_to_score(engine, atlas, master=master, into=into) as (opened, scan):
        if scorer in SCORERS and SCORERS[scorer].needs:
            from atlas.models.recorded import RecordedModels
            from atlas.scoring.model_evidence import ModelProbe

            probe = ModelProbe(RecordedModels(opened.store, model=model, release=release), progress=progress)
        opened.score_many(
            sets,
            sae_id=sae_id,
            replace=replace,
            encoder=encoder,
            bootstraps=bootstraps,
            probe=probe,
            scan=scan,
            tell=lambda line: echo(line, err=True),
            scorer=scorer,
            summary=summary,
            distance=distance,
            power=power,
            min_support=min_support,
            null_topics=null_topics,
            candidates=candidates,
        )
        frame = opened.top_many(list(sets), n, sae_id=sae_id, scorer=scorer)
    if style == "table":
        frame = labelled(frame, "topic", "sae_id", "neuron", "score", "se", "z", "support")
    print_frame(frame, style)
