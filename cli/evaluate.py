"""atlas evaluate"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from atlas.cli.options import (
    device_option,
    encoder_option,
    model_options,
    positions_option,
    sae_ids_option,
    sampling_options,
    scorer_option,
    select_option,
    strength_options,
    vectors_option,
)
from atlas.cli.output import Progress, echo, format_option, interval, print_frame, print_table

from atlas.evaluation.figures import ALIGNED, CODE_METRICS, UNALIGNED, Figure

if TYPE_CHECKING:
    import polars as pl

    from atlas.evaluation.evaluate import EvaluationSet

SHOWN = ("perplexity", "distinct_2", "acceptability", "contamination", "distance_held_out")
AGAINST = ("original", "sae", "shuffled")
OF_CODE = {str(Figure(metric, texts=texts)) for metric in CODE_METRICS for texts in (ALIGNED, UNALIGNED)}


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic")
@click.option(
    "--held-out", type=click.Path(), help="Texts about the topic it was not scored by.  [default: the bundled]"
)
@click.option(
    "--unaligned", type=click.Path(), help="Everyday texts about nothing of the kind.  [default: the bundled]"
)
@click.option("--others", type=click.Path(), help="Folder of texts about other topics.  [default: the bundled]")
@click.option("--prompts", type=click.Path(), help="Openings to generate from.  [default: the bundled]")
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="A steering method (see atlas steer), prefix or finetuned; again for more.  "
    "[default: add, swap, prefix; with --vector add, sas, dense]",
)
@vectors_option
@strength_options
@scorer_option
@select_option
@click.option("--keep-error/--drop-error", default=True, show_default=True, help="Keep what the SAE cannot represent.")
@positions_option
@sae_ids_option("the first scored")
@click.option("--samples", default=3, show_default=True, help="Texts per prompt.")
@sampling_options(64, "First seed; every prompt and sample has its own.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="First pick each method's strength on half of the prompts; evaluate on the other half.",
)
@click.option("--finetune", type=click.Path(), help="Folder of the fine-tuned models of method finetuned.")
@click.option("--measure-again", is_flag=True, help="Generate nothing: give stored texts the metrics they lack.")
@model_options
@encoder_option
@device_option
@format_option
def evaluate(
    atlas: str,
    topic: str,
    held_out: str | None,
    unaligned: str | None,
    others: str | None,
    prompts: str | None,
    methods: tuple[str, ...],
    vectors: tuple[str, ...],
    strength: float | None,
    neurons: int | None,
    sigma: str,
    scorer: str,
    select: str | None,
    keep_error: bool,
    positions: str,
    sae_ids: tuple[str, ...],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    calibrate: bool,
    finetune: str | None,
    measure_again: bool,
    model: str | None,
    release: str | None,
    encoder: str | None,
    device: str,
    style: str,
) -> None:
    """Measure how well ATLAS finds TOPIC in texts, and what steering towards it does to generated text.

    Every method is compared with unsteered text, with the SAE's plain reconstruction, and with itself under shuffled scores
    (or a shuffled vector): differences are paired by prompt and stand with their 95 % interval. All texts and figures are
    stored.

    \b
    Examples:
      atlas evaluate pocket.atlas medicine --method add --calibrate
      atlas contrast pocket.atlas medical --topic medicine
      atlas evaluate pocket.atlas medicine --vector medical --calibrate
    """
    import atlas as library
    from atlas.evaluation.calibrate import calibrate as pick_strength
    from atlas.evaluation.evaluate import EvaluationConfig, Examiner
    from atlas.evaluation.evaluate import evaluate as run
    from atlas.evaluation.remeasure import measure_again as measure
    from atlas.evaluation.runs import MethodSetting
    from atlas.models.encoders import load_encoder
    from atlas.models.recorded import RecordedModels
    from atlas.steering.generation import Sampling
    from atlas.steering.methods import METHODS, settle_options, spread_options
    from atlas.steering.settings import Options, SteeringSettings

    opened = library.open(atlas)
    recorded = RecordedModels(opened.store, model=model, release=release, device=device)
    progress = Progress()

    def show_curve(method: str, calibrated: tuple[pl.DataFrame, float | None]) -> None:
        progress.close()
        if style == "table":
            print_curve(method, *calibrated)

    def show(frame: pl.DataFrame) -> None:
        progress.close()
        print_frame(frame, style) if style != "table" else print_summary(frame)

    try:
        if measure_again:
            texts = read_held_out(topic, held_out)
            added = measure(opened.store, topic, texts, recorded=recorded, encoder=encoder, progress=progress)
            echo(f"{atlas}: {added:,} figures added")
            return
        data = read_data(topic, held_out, unaligned, others, prompts)
        chosen = methods or (("add", "sas", "dense") if vectors else ("add", "swap", "prefix"))
        known = [name for name in chosen if name in METHODS]
        given = spread_options(Options(strength, neurons, sigma), known)
        settings = [
            MethodSetting(name, settle_options(name, given[name])) if name in known else MethodSetting(name)
            for name in chosen
        ]
        config = EvaluationConfig(
            samples,
            scorer,
            select or SteeringSettings.select,
            keep_error,
            positions,
            Sampling(max_new_tokens, temperature, top_k, top_p, seed),
        )
        progress("loading model, SAEs and encoder", 0, 0)
        tuned = {}
        if "finetuned" in chosen:
            if finetune is None:
                raise click.UsageError("method finetuned needs --finetune FOLDER, where its weights are kept")
            tuned["finetuned"] = make_finetuned(opened, recorded, topic, finetune)
        halves = (data.prompts[0::2], data.prompts[1::2]) if calibrate else ((), data.prompts)
        judging = load_encoder(encoder or recorded.recorded_encoder)

        def examine(some: Sequence[str]) -> Examiner:
            return Examiner(
                opened.store,
                topic,
                replace(data, prompts=some),
                config,
                sae_ids=sae_ids or None,
                recorded=recorded,
                encoder=judging,
                models=tuned,
                vectors=vectors,
            )

        if calibrate:
            trial = examine(halves[0])
            settings = [
                with_strength(
                    setting,
                    pick_strength(trial, setting, progress=progress, show=partial(show_curve, setting.method))[1],
                )
                if setting.method in METHODS and METHODS[setting.method].strength
                else setting
                for setting in settings
            ]
        run(examine(halves[1]), settings, progress=progress, show=show)
    finally:
        progress.close()


def read_held_out(topic: str, path: str | None) -> Sequence[str]:
    """Held-out texts of a file, or the bundled ones; none where a topic, or a behaviour, has none."""
    from atlas.texts import bundled
    from atlas.texts.prompts import read_texts

    ours = bundled.read_topics("held_out")
    if path is None and topic not in ours:
        return ()
    return (read_texts(path) if path else ours[topic]).texts


def read_data(
    topic: str, held_out: str | None, unaligned: str | None, others: str | None, prompts: str | None
) -> EvaluationSet:
    """The texts that were named, the bundled ones elsewhere; PromptError when a topic has no bundled ones."""
    from atlas.cli.score import topic_files

    from atlas.errors import PromptError
    from atlas.evaluation.evaluate import EvaluationSet
    from atlas.texts import bundled
    from atlas.texts.prompts import read_texts

    own = read_held_out(topic, held_out)
    if not own:
        raise PromptError(f"topic {topic!r} has no bundled held-out texts: name a file of some with --held-out")
    ours = {name: texts.texts for name, texts in bundled.read_topics("held_out").items()}
    files = {} if others is None else topic_files(Path(others))
    rest = {name: read_texts(path).texts for name, path in files.items()} if files else ours
    return EvaluationSet(
        held_out=own,
        unaligned=read_texts(unaligned or bundled.UNALIGNED).texts,
        prompts=read_texts(prompts or bundled.NEUTRAL_PROMPTS).texts,
        others=[text for name, texts in rest.items() if name != topic for text in texts],
    )


def make_finetuned(opened: Any, recorded: Any, topic: str, folder: str) -> Any:
    """The fine-tuned model of a topic, trained now when it is not there."""
    from atlas.errors import AtlasError
    from atlas.evaluation.finetune import finetuned

    if Path(topic).name != topic or topic == ".." or "\0" in topic:
        raise AtlasError(
            f"topic {topic!r} cannot be the name of a folder in {folder}: score its texts under another name"
        )
    with opened.store.read() as session:
        texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        row = session.ask("all_saes").to_dicts()[0]
    found, seconds = finetuned(
        recorded.model_name, texts, Path(folder) / topic, prepend_bos=row["prepend_bos"], device=recorded.device
    )
    echo(f"fine-tuned on {len(texts)} texts in {seconds:.1f} s: {Path(folder) / topic}", err=True)
    return found


def print_curve(method: str, curve: pl.DataFrame, picked: float | None) -> None:
    """Print what a method does by strength, and the strength that was picked."""
    import polars as pl

    names = ["distance_topic", "perplexity", "distinct_2"]
    wide = curve.filter(pl.col("name").is_in(names)).pivot("name", index="strength", values="value")
    echo(f"\n{method} by strength (0 is unsteered):")
    print_table(wide.select("strength", *names))
    echo(f"picked: {picked:g}" if picked is not None else "picked: none, every strength breaks the limits")


def with_strength(setting: Any, picked: float | None) -> Any:
    """The method at the strength that was picked, or as it was where none was."""
    return setting if picked is None else replace(setting, options=replace(setting.options, strength=picked))


def print_summary(frame: pl.DataFrame) -> None:
    """One line per method, then what the neurons find and what the methods do to the code."""
    import polars as pl

    figures = {(row["method"], row["name"]): row for row in frame.iter_rows(named=True)}
    rows = []
    for method in frame["method"].unique(maintain_order=True):
        if method == "detection":
            continue
        row = {"method": method}
        for name in SHOWN:
            found = figures.get((method, name))
            row[name] = None if found is None else found["value"]
        ratio = figures.get((method, str(Figure("perplexity", over="original"))))
        row["perplexity / original"] = None if ratio is None else interval(ratio)
        for other in AGAINST:
            found = figures.get((method, str(Figure("distance_held_out", minus=other))))
            row[f"closer than {other}"] = None if found is None else interval(found, sign=-1)
        rows.append(row)
    echo("\nGenerated text (differences of distance_held_out, 95 % intervals, paired by prompt):")
    table = pl.DataFrame(rows)
    empty = [name for name in SHOWN if table[name].null_count() == table.height]
    print_table(table.drop(empty))
    if "acceptability" in empty:
        echo("acceptability: not available (textattack/roberta-base-CoLA is not in the local cache)")
    echo("\nDetection of held-out texts by the 20 best neurons:")
    for (method, name), row in figures.items():
        if method == "detection":
            echo(f"  {name}: {interval(row)}")
    of_code: dict[str, dict[str, Any]] = {}
    for (method, name), row in figures.items():
        if name in OF_CODE:
            of_code.setdefault(method, {"method": method})[name] = row["value"]
    if of_code:
        echo("\nWhat the methods do to the code of held-out (aligned) and everyday (unaligned) texts, per token:")
        print_table(pl.DataFrame(list(of_code.values())))
