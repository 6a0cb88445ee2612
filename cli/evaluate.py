"""atlas evaluate"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from atlas.cli.options import (
    chat_options,
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

from atlas.evaluation.figures import ALIGNED, CLASSIFIED, CODE_METRICS, JUDGED, UNALIGNED, Figure

if TYPE_CHECKING:
    import polars as pl

    from atlas.evaluation.language_judge import LanguageJudge

SHOWN = ("perplexity", "distinct_2", "acceptability", *JUDGED, "contamination", "distance_held_out")
AGAINST = ("original", "sae", "shuffled")
Figures = dict[tuple[str, str], dict[str, Any]]  # (method, name) -> row of the frame
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
@click.option(
    "--others",
    type=click.Path(),
    help="Folder with a file of texts per other topic; those and the held-out texts tell what a text is about.  "
    "[default: the bundled]",
)
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
@chat_options
@sae_ids_option("the first scored")
@click.option("--samples", default=3, show_default=True, help="Texts per prompt.")
@sampling_options(64, "First seed; every prompt and sample has its own.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="First pick each method's strength on half of the prompts; evaluate on the other half.",
)
@click.option("--finetune", type=click.Path(), help="Folder of the fine-tuned models of method finetuned.")
@click.option(
    "--judge",
    help="Language model that judges acceptability (slor, penlp), named as for atlas build; best one that did not write the "
    "text.  [default: none]",
)
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
    chat: bool,
    system: str | None,
    sae_ids: tuple[str, ...],
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    calibrate: bool,
    finetune: str | None,
    judge: str | None,
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
    from atlas.evaluation.evaluate import evaluate_topic
    from atlas.evaluation.evaluation_set import read_evaluation_set, read_held_out, read_others
    from atlas.evaluation.evaluator import EvaluationConfig
    from atlas.evaluation.finetune import finetune_topic
    from atlas.evaluation.language_judge import load_language_judge
    from atlas.evaluation.remeasure import remeasure_topic
    from atlas.evaluation.runs import MethodSetting
    from atlas.models.encoders import load_encoder
    from atlas.models.recorded import RecordedModels
    from atlas.steering.generation import Sampling
    from atlas.steering.methods import METHODS, settle_options, spread_options
    from atlas.steering.settings import Options, SteeringSettings

    opened = library.open(atlas)
    recorded = RecordedModels(opened.store, model=model, release=release, device=device)
    with closing(Progress()) as progress:
        if measure_again:
            texts, about_others = read_held_out(topic, held_out), read_others(topic, others)
            added = remeasure_topic(
                opened.store,
                topic,
                texts,
                recorded=recorded,
                encoder=encoder,
                others=about_others,
                judge=judge,
                progress=progress,
            )
            echo(f"{atlas}: {added:,} figures added")
            return

        def show(frame: pl.DataFrame) -> None:
            progress.close()
            if style == "table":
                print_summary(frame, language)
                return
            print_frame(frame, style)
            if language is not None:
                echo(say_judge(language), err=True)

        def show_curve(method: str, curve: pl.DataFrame, picked: float | None) -> None:
            progress.close()
            if style == "table":
                print_curve(method, curve, picked)

        data = read_evaluation_set(topic, held_out, unaligned, others, prompts)
        chosen = methods or (("add", "sas", "dense") if vectors else ("add", "swap", "prefix"))
        known = [name for name in chosen if name in METHODS]
        given = spread_options(Options(strength, neurons, sigma), known)
        for name in known:
            settle_options(name, given[name])  # says now which one a method does not have
        settings = [MethodSetting(name, given[name]) if name in known else MethodSetting(name) for name in chosen]
        config = EvaluationConfig(
            samples,
            scorer,
            select or SteeringSettings.select,
            keep_error,
            positions,
            Sampling(max_new_tokens, temperature, top_k, top_p, seed),
            chat,
            system,
        )
        progress("loading model, SAEs and encoder", 0, 0)
        language = None if judge is None else load_language_judge(recorded, judge, device=device)
        models = {}
        if "finetuned" in chosen:
            if finetune is None:
                raise click.UsageError("method finetuned needs --finetune FOLDER, where its weights are kept")
            models["finetuned"] = finetune_topic(recorded, topic, finetune, tell=partial(echo, err=True))
        evaluate_topic(
            opened.store,
            topic,
            data,
            settings,
            config=config,
            calibrate=calibrate,
            vectors=vectors,
            sae_ids=sae_ids or None,
            recorded=recorded,
            encoder=load_encoder(encoder or recorded.recorded_encoder),
            models=models,
            judge=language,
            progress=progress,
            show=show,
            show_curve=show_curve,
        )


def print_curve(method: str, curve: pl.DataFrame, picked: float | None) -> None:
    """Print what a method does by strength, and the strength that was picked."""
    import polars as pl

    names = ["distance_topic", "perplexity", "distinct_2"]
    wide = curve.filter(pl.col("name").is_in(names)).pivot("name", index="strength", values="value")
    echo(f"\n{method} by strength (0 is unsteered):")
    print_table(wide.select("strength", *names))
    echo(f"picked: {picked:g}" if picked is not None else "picked: none, every strength breaks the limits")


def print_summary(frame: pl.DataFrame, language: LanguageJudge | None) -> None:
    """One line per method, which topic its texts are about, what the neurons find and what the methods do to the code."""
    import polars as pl

    figures = {(row["method"], row["name"]): row for row in frame.iter_rows(named=True)}
    methods = [method for method in frame["method"].unique(maintain_order=True) if method != "detection"]
    rows = []
    for method in methods:
        row = {"method": method}
        for name in SHOWN:
            found = figures.get((method, name))
            row[name] = None if found is None else found["value"]
        row["perplexity / original"] = _interval_of(figures, method, Figure("perplexity", over="original"))
        for other in AGAINST:
            row[f"closer than {other}"] = _interval_of(
                figures, method, Figure("distance_held_out", minus=other), sign=-1
            )
        rows.append(row)
    echo("\nGenerated text (differences of distance_held_out, 95 % intervals, paired by prompt):")
    table = pl.DataFrame(rows)
    empty = [name for name in SHOWN if table[name].null_count() == table.height]
    print_table(table.drop(empty))
    if "acceptability" in empty:
        echo("acceptability: not available (textattack/roberta-base-CoLA is not in the local cache)")
    echo(say_judge(language))
    accuracy = figures.get(("detection", CLASSIFIED))
    if accuracy is not None:
        echo(
            "\nWhich topic a text is about: that whose held-out texts are nearest (right for "
            f"{interval(accuracy)} of these texts, each left out):"
        )
        print_table(pl.DataFrame([_share_on_topic(figures, method) for method in methods]))
    echo("\nDetection of held-out texts by the 20 best neurons:")
    for (method, name), row in figures.items():
        if method == "detection" and name != CLASSIFIED:
            echo(f"  {name}: {interval(row)}")
    of_code: dict[str, dict[str, Any]] = {}
    for (method, name), row in figures.items():
        if name in OF_CODE:
            of_code.setdefault(method, {"method": method})[name] = row["value"]
    if of_code:
        echo("\nWhat the methods do to the code of held-out (aligned) and everyday (unaligned) texts, per token:")
        print_table(pl.DataFrame(list(of_code.values())))


def say_judge(language: LanguageJudge | None) -> str:
    """By what the texts' acceptability was judged."""
    if language is None:
        return "slor, penlp: not measured; --judge names a language model that did not write the text"
    if language.is_author:
        return f"slor, penlp: judged by {language.name}, the model that wrote the text: it finds what it writes itself likely"
    return f"slor, penlp: judged by {language.name}, which did not write the text"


def _interval_of(figures: Figures, method: str, figure: Figure, sign: int = 1) -> str | None:
    found = figures.get((method, str(figure)))
    return None if found is None else interval(found, sign)


def _share_on_topic(figures: Figures, method: str) -> dict[str, str | None]:
    """The share of a method's texts that are about the topic, and by how much it is above that of unsteered text."""
    found = {"method": method, "on topic": _interval_of(figures, method, Figure("on_topic"))}
    return {**found, "more than original": _interval_of(figures, method, Figure("on_topic", minus="original"))}
