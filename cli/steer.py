"""atlas steer"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from atlas.cli.options import (
    chat_options,
    device_option,
    model_options,
    positions_option,
    sae_ids_option,
    sampling_options,
    scorer_option,
    select_option,
    strength_options,
    vectors_option,
)
from atlas.cli.output import Progress, echo, format_option, print_frame

if TYPE_CHECKING:
    from atlas.steering.generation import Generation


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic")
@click.argument("prompts", nargs=-1, required=True)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="original, sae, clamp, clamp-own, clamp-plus, weight, swap, add, sas, dense or filtered; again for more.  "
    "[default: original and add; with --paper original and swap; with --vector original and sas]",
)
@strength_options
@vectors_option
@click.option(
    "--neuron",
    "chosen",
    multiple=True,
    type=click.IntRange(min=0),
    help="A neuron that steers in a topic's stead; again for more, best first. TOPIC is - then.",
)
@click.option(
    "--list",
    "listed",
    default=None,
    help="A list of notes whose neurons steer in a topic's stead. TOPIC is - then.",
)
@scorer_option
@select_option
@click.option("--keep-error/--drop-error", default=None, help="Keep what the SAE cannot represent.  [default: keep]")
@click.option(
    "--paper",
    is_flag=True,
    help="The papers' literal arithmetic: error dropped, every neuron, strengths as published instead of picked.",
)
@positions_option
@chat_options
@sae_ids_option("the first scored")
@model_options
@device_option
@sampling_options(40, "Seed of the sampling, the same for every method.")
@click.option("--no-save", is_flag=True, help="Do not store the texts and their figures in the atlas.")
@format_option
def steer(
    atlas: str,
    topic: str,
    prompts: tuple[str, ...],
    methods: tuple[str, ...],
    strength: float | None,
    neurons: int | None,
    sigma: str,
    vectors: tuple[str, ...],
    chosen: tuple[int, ...],
    listed: str | None,
    scorer: str,
    select: str | None,
    keep_error: bool | None,
    paper: bool,
    positions: str,
    chat: bool,
    system: str | None,
    sae_ids: tuple[str, ...],
    model: str | None,
    release: str | None,
    device: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    no_save: bool,
    style: str,
) -> None:
    """Go on with each of PROMPTS, steered towards TOPIC by the scores in ATLAS, or by a contrastive vector, one text per
    method side by side. TOPIC is - where a vector alone steers, or neurons of your choice; it may be a list of notes (`atlas
    notes`) whose neurons are to steer.

    Contamination is the share of the edited code that is off topic: 0 is pure, 1 is all off.

    \b
    Examples:
      atlas steer pocket.atlas medicine "I want to tell you about" --method original --method swap
      atlas steer pocket.atlas - "I want to tell you about" --neuron 476 --neuron 3521 --sae-id 0
      atlas steer pocket.atlas blood "I want to tell you about"  # the neurons kept in the list blood
      atlas steer pocket.atlas - "We went to see the film, and" --vector praise --strength -1
      atlas steer smollm2.atlas medicine "What shall I do on Sunday?" --chat --system "Answer in one sentence."
    """
    import atlas as library
    from atlas.models.recorded import RecordedModels
    from atlas.steering.generation import Sampling
    from atlas.steering.methods import DEFAULT_METHOD, settle_options, spread_options
    from atlas.steering.prepare import prepare_steering
    from atlas.steering.settings import Options, SteeringSettings
    from atlas.steering.steer import steer_prompts

    opened = library.open(atlas)
    if paper and select is not None:
        raise click.UsageError("--paper and --select exclude each other")
    if chosen and listed is not None:
        raise click.UsageError("--neuron and --list exclude each other")
    own = listed if listed is not None else opened.chosen_neurons(chosen, sae_ids) if chosen else None
    select = select or ("score" if paper else SteeringSettings.select)
    if keep_error is None:
        keep_error = SteeringSettings.keep_error and (not paper or bool(vectors))
    settings = SteeringSettings(scorer, select, keep_error, positions, chat, system)
    methods = methods or ("original", "sas" if vectors else "swap" if paper else DEFAULT_METHOD)
    options = spread_options(Options(strength, neurons, sigma), methods)
    if paper:  # strengths as published, not those that a calibration picked
        options = {method: settle_options(method, own) for method, own in options.items()}
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    progress = Progress()

    def show(generations: list[Generation]) -> None:
        progress.close()
        print_generations(generations, prompts, style, scored=topic != "-" or bool(own), goes_on=not chat)

    try:
        prepared = prepare_steering(
            RecordedModels(opened.store, model=model, release=release, device=device),
            None if topic == "-" else topic,
            options,
            settings=settings,
            vectors=vectors,
            sae_ids=sae_ids or None,
            chosen=own,
            progress=progress,
        )
        steer_prompts(prepared, prompts, sampling=sampling, save=not no_save, progress=progress, show=show)
    finally:
        progress.close()


def print_generations(
    generations: list[Generation], prompts: Sequence[str], style: str, *, scored: bool, goes_on: bool
) -> None:
    """Print texts and their figures, in a table's stead prompt by prompt.

    `scored` says whether a topic steered, `goes_on` whether the texts go on with the prompts or answer them.
    """
    import polars as pl

    frame = pl.DataFrame(generations)
    if style != "table":
        print_frame(frame, style)
        return
    for prompt in dict.fromkeys(prompts):
        echo(f"{prompt} ..." if goes_on else prompt)
        for row in frame.filter(pl.col("prompt") == prompt).iter_rows(named=True):
            purity = "no code" if row["contamination"] is None else f"contamination {row['contamination']:.3f}"
            purity = purity if scored else "no topic"
            dose = "" if row["strength"] is None else f"strength {row['strength']:g}, "
            echo(f"  {row['method']} ({dose}{purity})")
            echo(f"    {' '.join(row['text'].split())}")
