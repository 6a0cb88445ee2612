"""atlas choices"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from atlas.cli.options import (
    chat_options,
    device_option,
    encoder_option,
    model_options,
    position_option,
    sae_ids_option,
    sampling_options,
    taus_option,
)
from atlas.cli.output import Progress, format_option, interval, print_frame

from atlas.evaluation.figures import Figure

if TYPE_CHECKING:
    import polars as pl

KEYS = ("method", "sae_id", "tau", "strength")


def mean(row: dict[str, Any]) -> float:
    """A figure without its interval."""
    return float(row["value"])


FIGURES: dict[str, tuple[Figure, Callable[[dict[str, Any]], object]]] = {  # column of the printed table -> figure, how
    "entries": (Figure("entries"), lambda row: int(row["value"])),
    "probability": (Figure("probability"), mean),
    "shift": (Figure("shift"), interval),
    "shift_prefixed": (Figure("shift", after="The answer is"), mean),
    "unrelated_shift": (Figure("shift", unrelated=True), mean),
    "unrelated_accuracy": (Figure("accuracy", unrelated=True), mean),
    "perplexity_ratio": (Figure("perplexity ratio", unrelated=True), mean),
    "leaning_gain": (Figure("leaning", minus="original"), interval),
    "text_perplexity_ratio": (Figure("perplexity", over="original"), mean),
    "distinct_2": (Figure("distinct_2"), mean),
}


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("name")
@click.argument("pairs", type=click.Path(), required=False)
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
@taus_option
@position_option("last")
@click.option("--sigma", default="own", show_default=True, help="Selection of sas: own (or sae), relu or none.")
@click.option("--topic", default=None, help="Whose scores filtered weighs neurons by.  [default: none]")
@click.option(
    "--ablations", is_flag=True, help="Try sas by its positive and its negative part, and with the error dropped."
)
@click.option("--texts", type=click.Path(), help="Unrelated texts, whose perplexity is the price.  [default: bundled]")
@click.option(
    "--unrelated",
    "unrelated_files",
    multiple=True,
    type=click.Path(),
    help="Contrast pairs of another behaviour, to be answered as before; again for more.  [default: bundled]",
)
@click.option("--samples", default=0, show_default=True, help="Texts to generate per prompt and strength; 0 for none.")
@click.option(
    "--prompts",
    type=click.Path(),
    help="Openings to generate from.  [default: the prompts of the pairs that are tried]",
)
@chat_options
@sae_ids_option("the first")
@click.option("--each-sae", is_flag=True, help="Steer by one SAE at a time: those of --sae-id, or every one.")
@model_options
@encoder_option
@device_option
@sampling_options(64, "First seed of the texts, and of the random control.")
@format_option
def choices(
    atlas: str,
    name: str,
    pairs: str | None,
    methods: tuple[str, ...],
    strengths: tuple[float, ...],
    held_out: float,
    taus: tuple[float, ...],
    position: str | None,
    sigma: str,
    topic: str | None,
    ablations: bool,
    texts: str | None,
    unrelated_files: tuple[str, ...],
    samples: int,
    prompts: str | None,
    chat: bool,
    system: str | None,
    sae_ids: tuple[str, ...],
    each_sae: bool,
    model: str | None,
    release: str | None,
    encoder: str | None,
    device: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    style: str,
) -> None:
    """Steer by vectors of behaviour NAME made from one part of PAIRS (by default the bundled pairs of that name), and
    measure on the other how much more probable the model finds the completion that shows the behaviour than the other one.
    Results are stored in ATLAS.

    shift is the mean change of that probability with its 95 % interval; shift_prefixed the same with "The answer is"
    before the completion. unrelated_shift and unrelated_accuracy are of other behaviours' pairs, perplexity_ratio is of unrelated
    texts: what the steering costs. METHOD/random is the control: the same entries at other neurons, or a random
    direction. entries counts the neurons of a sparse vector: compare several --tau, or SAEs of several widths with
    --each-sae. With --samples, text is generated too: leaning_gain is how much closer than unsteered text it comes to
    completions that show the behaviour, compared with those that show the opposite.

    \b
    Examples:
      atlas choices pocket.atlas praise praise.jsonl --strength 1 --strength -1
      atlas choices pocket.atlas question --position mean --tau 0.2 --tau 0.5 --each-sae
      atlas choices pocket.atlas question --position mean --strength 2 --samples 1
      atlas choices smollm2.atlas formality --chat --position mean --tau 0.3
    """
    from atlas.cli.texts import read_behaviour, read_unrelated

    given = read_behaviour(name, pairs)
    if prompts is not None and not samples:
        raise click.UsageError("--prompts goes with --samples")
    import atlas as library
    from atlas.contrast.make_vectors import TAU
    from atlas.evaluation.choice_trial import STRENGTHS, ChoiceConfig, ChoiceSet
    from atlas.evaluation.choices import evaluate_choices
    from atlas.models.encoders import load_encoder
    from atlas.models.recorded import RecordedModels
    from atlas.steering.generation import Sampling
    from atlas.texts import bundled
    from atlas.texts.prompts import read_texts

    data = ChoiceSet(
        given,
        read_texts(texts or bundled.UNALIGNED).texts,
        read_unrelated(name, unrelated_files, chat=chat),
        None if prompts is None else read_texts(prompts).texts,
    )
    config = ChoiceConfig(
        strengths or STRENGTHS,
        taus or (TAU,),
        position or "last",
        held_out,
        sigma,
        topic,
        ablations,
        samples,
        Sampling(max_new_tokens, temperature, top_k, top_p, seed),
        chat,
        system,
    )
    opened = library.open(atlas)
    progress = Progress()

    def show(frame: pl.DataFrame) -> None:
        progress.close()
        print_frame(frame if style != "table" else summarise(frame), style)

    try:
        evaluate_choices(
            opened.store,
            name,
            data,
            methods=methods or ("sas", "dense"),
            config=config,
            sae_ids=sae_ids or None,
            each_sae=each_sae,
            recorded=RecordedModels(opened.store, model=model, release=release, device=device),
            encoder=load_encoder(encoder) if samples and encoder is not None else None,
            progress=progress,
            show=show,
        )
    finally:
        progress.close()


def summarise(frame: pl.DataFrame) -> pl.DataFrame:
    """A row per method, SAE, tau and strength, with the figures side by side; what is the same in all rows is left out."""
    import polars as pl

    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in frame.iter_rows(named=True):
        key = tuple(row[name] for name in KEYS)
        rows.setdefault(key, dict(zip(KEYS, key, strict=True)))[row["name"]] = row
    table = [
        {name: row[name] for name in KEYS}
        | {column: show(row[str(figure)]) for column, (figure, show) in FIGURES.items() if str(figure) in row}
        for row in rows.values()
    ]
    columns = [*KEYS, *(name for name in FIGURES if any(name in row for row in table))]
    same = [name for name in ("sae_id", "tau") if len({row[name] for row in table} - {None}) <= 1]
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in table], infer_schema_length=None).drop(
        same
    )
