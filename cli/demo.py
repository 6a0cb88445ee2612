"""atlas demo"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from atlas.cli.output import Progress, echo, flatten_lists, print_table

if TYPE_CHECKING:
    import polars as pl

SHOWN = ("medicine", "sports")
STEERED = ("medicine", "finance", "music")
PROMPT = "I want to tell you about"
METHODS = ("original", "swap", "add")


@click.command()
@click.argument("folder", default="atlas-demo", type=click.Path())
def demo(folder: str) -> None:
    """Build an atlas of the bundled model in FOLDER, score the bundled topics, and steer a prompt by the scores.

    Needs no network and no GPU; takes about a minute on two cores. A second run only asks again.

    \b
    Example:
      atlas demo
    """
    import atlas as library
    from atlas.building.build import build_atlas
    from atlas.models.recorded import RecordedModels
    from atlas.steering.generation import Sampling
    from atlas.steering.prepare import prepare_steering
    from atlas.steering.settings import Options
    from atlas.steering.steer import steer_prompts
    from atlas.texts import bundled
    from atlas.texts.prompts import read_texts

    path = Path(folder) / "pocket.atlas"
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    try:
        saes = [(str(bundled.SAES), name) for name in bundled.sae_ids()]
        report = build_atlas(path, read_texts(bundled.PROMPTS), model=str(bundled.MODEL), saes=saes, progress=progress)
        progress("scoring the topics", 0, 0)
        atlas = library.open(path)
        topics = bundled.read_topics()
        atlas.score_many(topics)
        echo(f"{path}: {report.prompts:,} prompts, {report.rows:,} activation rows, {len(topics)} topics scored")
        for topic in SHOWN:
            echo(f"\nThe neurons that stand for {topic}, the tokens they fire on, and those they write:")
            print_table(
                shorten(atlas.top(topic, 5).select("sae_id", "neuron", "score", "support", "fires_on", "top_tokens"))
            )
        echo(f"\n{PROMPT} ...")
        recorded = RecordedModels(atlas.store)
        for topic in STEERED:
            methods = METHODS if topic == STEERED[0] else METHODS[1:]
            prepared = prepare_steering(recorded, topic, {name: Options() for name in methods}, progress=progress)
            texts = steer_prompts(prepared, [PROMPT], sampling=Sampling(max_new_tokens=30), progress=progress)
            for text in texts:
                label = text.method if text.method == "original" else f"{text.method} towards {topic}"
                echo(f"  {label} (contamination {text.contamination:.2f}):\n    {' '.join(text.text.split())}")
    finally:
        progress.close()
    echo("\nNext:")
    for line in (
        f"atlas info {path}",
        f"atlas top {path} shoes",
        f"atlas why {path} medicine {atlas.top('medicine', 1).item(0, 'neuron')} --sae-id 0",
        f'atlas steer {path} films "Yesterday my friend told me about" --method original --method add',
        f"atlas query {path} \"select * from compare_topics('medicine', 'cooking') limit 5\"",
        f"atlas score {path} MY_TOPIC MY_TEXTS.txt",
    ):
        echo(f"  {line}")


def shorten(frame: pl.DataFrame) -> pl.DataFrame:
    """A few tokens per neuron, so that a line fits a screen."""
    import polars as pl

    return flatten_lists(frame.with_columns(pl.col("fires_on").list.head(3), pl.col("top_tokens").list.head(4)))
