"""Generated text under the methods and their controls (method: section 6, point 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, TopicEvaluator, prepare_evaluator
from atlas.evaluation.figures import Figure
from atlas.evaluation.finetune import finetune_topic
from atlas.evaluation.intervals import Interval
from atlas.evaluation.metrics import measure
from atlas.evaluation.runs import MethodSetting, Run, compare
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.steering.calibrations import picked_strength
from atlas.steering.methods import METHODS, settle_options
from atlas.steering.settings import Options

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


PAPER, OURS = "paper", "default"  # arithmetic
CONFIG = EvaluationConfig(samples=1)  # one text per prompt, so that the page is made in minutes
ON_PAPER = (
    ("clamp", None), ("clamp-plus", None), ("weight", None), ("swap", None), ("swap", "shuffled"), ("swap", "random"),
)  # fmt: skip
ON_DEFAULT = (
    ("swap", None),
    ("swap", "shuffled"),
    ("add", None),
    ("add", "shuffled"),
    ("add", "random"),
    ("prefix", None),
)
PER_TOPIC = ((PAPER, "clamp"), (PAPER, "swap"), (OURS, "swap"), (OURS, "add"))
TOPIC_PROMPTS = 20  # prompts per topic where every topic is shown
FIGURES = ("perplexity", "distance_topic", "distance_held_out", "contamination", "distinct_2", "acceptability")
PLAIN = {Figure(metric) for metric in FIGURES}
SCHEMA = {
    "topic": pl.String, "method": pl.String, "arithmetic": pl.String, "strength": pl.Float64, "figure": pl.String,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64,
}  # fmt: skip


def one_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """SCHEMA: every method and control on one topic; figures ending in " - <method>" are differences paired by prompt."""
    paper = evaluator_of(inputs, inputs.topic, PAPER, inputs.texts.prompts)
    paper = replace(paper, models=finetuned_models(inputs))
    ours = paper.with_config(config_of(OURS))
    settings = [
        (PAPER, paper, setting_of(paper, method, control))
        for method, control in (("original", None), ("sae", None), *ON_PAPER)
    ]
    settings += [(OURS, ours, setting_of(ours, method, control)) for method, control in ON_DEFAULT]
    if paper.models:
        settings.append((PAPER, paper, MethodSetting("finetuned")))
    runs = {PAPER: [], OURS: []}  # type: dict[str, list[Run]]
    for done, (arithmetic, evaluator, setting) in enumerate(settings):
        inputs.progress(f"generating, {inputs.topic}", done, len(settings))
        runs[arithmetic].append(evaluator.run(setting))
    inputs.progress(f"generating, {inputs.topic}", len(settings), len(settings))
    compare(runs[PAPER], inputs.texts.prompts)
    compare([*runs[PAPER][:2], *runs[OURS]], inputs.texts.prompts)
    rows = [row for name, some in runs.items() for run in some for row in rows_of(inputs.topic, name, run)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def every_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """SCHEMA: original, sae and a few methods on every topic that has held-out texts, from fewer prompts."""
    if not inputs.tested:
        inputs.held_out(inputs.topic)
    prompts = list(inputs.texts.prompts)[:TOPIC_PROMPTS]
    plain: list[Run] = []
    rows = []
    for done, topic in enumerate(inputs.tested):
        inputs.progress("generating, every topic", done, len(inputs.tested))
        paper = evaluator_of(inputs, topic, PAPER, prompts)
        evaluators = {PAPER: paper, OURS: paper.with_config(config_of(OURS))}
        if not plain:
            plain = [paper.run(setting_of(paper, name, None)) for name in ("original", "sae")]
        distances = ("distance_topic", "distance_held_out")
        baselines = [
            replace(run, values={**run.values, **measure(paper.metric_inputs, run.generations, distances)}, figures={})
            for run in plain
        ]
        for run in baselines:
            run.values["contamination"] = [None] * len(run.generations)  # it was by the first topic's scores
        runs = [(name, evaluators[name].run(setting_of(evaluators[name], method, None))) for name, method in PER_TOPIC]
        for name in (PAPER, OURS):
            compare([*baselines, *(run for of, run in runs if of == name)], prompts)
        for name, run in [*((PAPER, run) for run in baselines), *runs]:
            rows += rows_of(topic, name, run)
    inputs.progress("generating, every topic", len(inputs.tested), len(inputs.tested))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def distance_by_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """The part of `every_topic` about distances."""
    return inputs.once(every_topic).filter(pl.col("figure").str.starts_with("distance"))


def price_by_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """The part of `every_topic` about what steering costs the text."""
    return inputs.once(every_topic).filter(~pl.col("figure").str.starts_with("distance"))


def evaluator_of(inputs: ExhibitInputs, topic: str, arithmetic: str, prompts: Any) -> TopicEvaluator:
    """A topic's steered model over the first SAE."""
    if not prompts:
        raise NotAvailable(
            "there are no prompts to generate from", "atlas reproduce {atlas} --out {out} --prompts FILE"
        )
    data = EvaluationSet(inputs.held_out(topic), list(inputs.texts.unaligned), list(prompts))
    return prepare_evaluator(
        inputs.steering.store, topic, data, config_of(arithmetic),
        sae_ids=[inputs.saes[0]["sae_key"]], recorded=inputs.steering_model, encoder=inputs.encoder,
    )  # fmt: skip


def config_of(arithmetic: str) -> EvaluationConfig:
    """The paper's literal arithmetic, or the defaults of `atlas evaluate`."""
    return CONFIG if arithmetic == OURS else replace(CONFIG, keep_error=False, select="score", positions="all")


def setting_of(evaluator: TopicEvaluator, method: str, control: str | None) -> MethodSetting:
    """A method at the strength that was picked for it, else at its default."""
    if method not in METHODS:
        return MethodSetting(method)
    options = settle_options(method, Options())
    if options.strength is not None:
        with evaluator.store.read() as session:
            picked = picked_strength(session, evaluator.calibration_key(session, MethodSetting(method, options)))
        if picked is not None:
            options = replace(options, strength=picked)
        elif METHODS[method].fitted:
            options = evaluator.steering.fitted(method, options)
    return MethodSetting(method, options, control)


def finetuned_models(inputs: ExhibitInputs) -> dict[str, Any]:
    """The fine-tuned model of the topic, made when its folder is named and empty; none when no folder is named."""
    if inputs.finetuned is None:
        return {}
    inputs.progress("fine-tuning", 0, 0)
    return {"finetuned": finetune_topic(inputs.recorded, inputs.topic, inputs.finetuned)}


def rows_of(topic: str, arithmetic: str, run: Run) -> list[tuple[Any, ...]]:
    """The figures of a run that are shown or compared; one without a value says so by a null."""
    shown: dict[Figure, Interval | tuple[None, None, None]] = {
        figure: found for figure, found in run.figures.items() if replace(figure, minus="") in PLAIN
    }
    shown.setdefault(Figure("acceptability"), (None, None, None))
    strength = run.setting.options.strength
    return [(topic, run.setting.name, arithmetic, strength, str(figure), *found) for figure, found in shown.items()]


def say_one_topic(frame: pl.DataFrame) -> str:
    """What is missing, and the differences in distance from unsteered text that exclude 0."""
    parts = [_differences(frame)]
    if frame.filter((pl.col("figure") == "acceptability") & pl.col("value").is_not_null()).is_empty():
        parts.append(MISSING_CLASSIFIER)
    if "finetuned" not in frame["method"]:
        parts.append(
            "the fine-tuned model is not available: atlas reproduce ATLAS --out DIR --redo --only table_2 --finetune FOLDER"
        )
    return "; ".join(parts)


def say_distances(frame: pl.DataFrame) -> str:
    """For how many topics the text came closer, per method."""
    return _differences(frame)


def say_price(frame: pl.DataFrame) -> str:
    """Mean over topics of perplexity, and what is missing."""
    mean = (
        frame.filter(pl.col("figure") == "perplexity")
        .group_by("method", "arithmetic", maintain_order=True)
        .agg(pl.col("value").mean())
    )
    text = "mean perplexity: " + ", ".join(f"{name} ({how}) {value:.1f}" for name, how, value in mean.iter_rows())
    scored = frame.filter((pl.col("figure") == "acceptability") & pl.col("value").is_not_null())
    return f"{text}; {MISSING_CLASSIFIER}" if scored.is_empty() else text


MISSING_CLASSIFIER = (
    "acceptability is not available, no classifier cached: hf download textattack/roberta-base-CoLA, then --redo"
)


def _differences(frame: pl.DataFrame) -> str:
    """Methods, and for how many topics the difference in distance to held-out texts from `original` lies below 0."""
    found = frame.filter(
        (pl.col("figure") == str(Figure("distance_held_out", minus="original")))
        & ~pl.col("method").is_in(["sae", "prefix", "finetuned"])
        & ~pl.col("method").str.contains("/")
    )
    topics = found["topic"].n_unique()
    counts = found.group_by("method", "arithmetic", maintain_order=True).agg(
        pl.col("value").mean(), (pl.col("high") < 0).sum().alias("closer")
    )
    return "distance to held-out texts minus that of original: " + "; ".join(
        f"{method} ({how}) {value:+.3f}, 95 % interval below 0 for {closer} of {topics}"
        for method, how, value, closer in counts.iter_rows()
    )


FIGURE_TITLES = {
    "perplexity": "perplexity under the unsteered model",
    "distance_topic": "distance to the topic's own texts",
    "distance_held_out": "distance to held-out texts",
    "contamination": "contamination",
    "distinct_2": "distinct pairs of tokens",
    "acceptability": "acceptability",
    "distance_topic - original": "distance to own texts, minus original",
    "distance_held_out - original": "distance to held-out texts, minus original",
    "distance_topic - sae": "distance to own texts, minus sae",
    "distance_held_out - sae": "distance to held-out texts, minus sae",
}


def _name_figures(frame: pl.DataFrame) -> pl.DataFrame:
    """Figures of generated text that have a title, with their titles, and methods with their arithmetic."""
    known = frame.filter(pl.col("figure").is_in(list(FIGURE_TITLES)) & pl.col("value").is_not_null())
    plain = pl.col("method").is_in(["original", "sae", "prefix", "finetuned"])
    both = pl.format("{} ({})", "method", "arithmetic")
    return known.with_columns(
        pl.col("figure").replace_strict(FIGURE_TITLES), method=pl.when(plain).then("method").otherwise(both)
    )


def _log_perplexity(figure: Picture, frame: pl.DataFrame) -> Picture:
    """A logarithmic axis where a broken method would hide the differences between the others."""
    for axes, name in zip(figure.axes, plots.values_of(frame, "figure"), strict=True):
        values = frame.filter(pl.col("figure") == name)["value"].to_numpy()
        if name == FIGURE_TITLES["perplexity"] and values.max() > 10 * values.min():
            axes.set_xscale("log")
    return figure


def _draw_one_topic(frame: pl.DataFrame) -> Picture:
    named = _name_figures(frame.filter(pl.col("figure").is_in(FIGURES)))
    return _log_perplexity(plots.dots(named, row="method", series=None, panel="figure", columns=3), named)


METHOD_COLUMNS = ("method", "arithmetic")


def _draw_by_topic(figures: tuple[str, ...], *, mark: float | None) -> Callable[[pl.DataFrame], Picture]:
    def draw(frame: pl.DataFrame) -> Picture:
        named = _name_figures(frame.filter(pl.col("figure").is_in(figures)))
        return _log_perplexity(plots.dots(named, row="topic", series="method", panel="figure", mark=mark), named)

    return draw


EXHIBITS = {
    "table_2": Exhibit(
        "Generated text, one topic",
        "Text generated from neutral openings, 64 tokens each, under each method and its controls: perplexity under the "
        "unsteered model, distance to the topic's own and to held-out texts, contamination (share of the code off topic), "
        "distinct pairs of tokens, acceptability. Mean and 95 % interval over prompts. 'paper' is the papers' literal "
        "arithmetic, 'default' what `atlas steer` does when not told otherwise. /shuffled and /random are the same method "
        "with scores that cannot know the topic.",
        one_topic,
        say_one_topic,
        _draw_one_topic,
        paper="acceptability 0.25 for the fine-tuned model, 0.5 for swap (abstract; GPT-2, a medical topic)",
        table=(METHOD_COLUMNS, "figure"),
    ),
    "table_7": Exhibit(
        "Generated text, every topic: distance",
        "Distance of generated text to the topic's own texts and to its held-out texts, minus that of unsteered text (original) or "
        "of the SAE's plain reconstruction (sae) from the same prompts and seeds. Mean and 95 % interval over prompts; "
        "below 0 is closer to the topic. Only held-out texts are evidence: the topic's own texts set the scores.",
        distance_by_topic,
        say_distances,
        _draw_by_topic(
            (
                "distance_topic - original",
                "distance_held_out - original",
                "distance_topic - sae",
                "distance_held_out - sae",
            ),
            mark=0,
        ),
    ),
    "table_8": Exhibit(
        "Generated text, every topic: price",
        "What the same texts cost: perplexity under the unsteered model, distinct pairs of tokens (1 is no repetition), "
        "contamination, acceptability. Mean and 95 % interval over prompts.",
        price_by_topic,
        say_price,
        _draw_by_topic(("perplexity", "distinct_2", "contamination", "acceptability"), mark=None),
    ),
}
