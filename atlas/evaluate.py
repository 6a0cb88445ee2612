"""Evaluate a topic's neurons and the text they steer, with intervals and controls (method: section 6, points 1 to 3).

One evaluation is several runs: one per method or control, and one for detection. Every generated text and every figure is
stored, so that a new metric can be measured on old texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from atlas.checks import check_encoder, require_complete
from atlas.controls import CONTROLS, control_target
from atlas.errors import AtlasError, UnknownName
from atlas.generate import Generation, Sampling, generate
from atlas.intervals import Interval, auroc_interval, mean_interval
from atlas.layerwise import activity, layer_figures
from atlas.methods import METHODS, Options, settle_options
from atlas.metrics import METRICS, Judge
from atlas.models import load_acceptability, load_encoder
from atlas.probe import ensure_signals
from atlas.progress import Progress, silent
from atlas.selection import DEFAULT_RULE
from atlas.steer import KEEP_ERROR, store_generations
from atlas.steerer import Steerer
from atlas.steering import Layer, check_positions
from atlas.store import Session, Store, now

if TYPE_CHECKING:
    from atlas.api import Atlas

BEST = 20  # neurons that detection sums
PERMUTATIONS = 4  # of the scores per control, shared out over the prompts
DRAWS = 20  # random sets of neurons it is compared with
BASELINES = ("original", "sae")
BY_SCORE = " by score"


@dataclass(frozen=True)
class EvaluationSet:
    """What an evaluation runs on; nothing of it may be among the topic's own texts.

    Attributes:
        held_out: texts about the topic.
        unaligned: everyday texts about nothing of the kind.
        others: texts about other topics; may be empty.
        prompts: neutral openings to generate from.
    """

    held_out: Sequence[str]
    unaligned: Sequence[str]
    prompts: Sequence[str]
    others: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, texts in (("held-out text", self.held_out), ("prompt to generate from", self.prompts)):
            if not texts:
                raise AtlasError(f"there is no {name} to evaluate on: give at least one")


@dataclass(frozen=True)
class MethodSetting:
    """A steering method as it is evaluated.

    Attributes:
        method: key of METHODS, or "prefix" or "finetuned".
        options: settings; None where the method's defaults are meant.
        control: key of CONTROLS, or None.
    """

    method: str
    options: Options = Options()
    control: str | None = None

    @property
    def name(self) -> str:
        return self.method if self.control is None else f"{self.method}/{self.control}"


@dataclass
class Run:
    """One method of an evaluation: its texts, and per metric a value per text."""

    setting: MethodSetting
    generations: list[Generation] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    figures: dict[str, Interval] = field(default_factory=dict)

    def per_prompt(self, metric: str, prompts: Sequence[str]) -> list[float | None]:
        """The mean over a prompt's samples, per prompt."""
        sums: dict[str, list[float]] = {prompt: [] for prompt in prompts}
        for generation, value in zip(self.generations, self.values[metric], strict=True):
            if value is not None:
                sums[generation.prompt].append(value)
        return [sum(found) / len(found) if found else None for found in sums.values()]


@dataclass(frozen=True)
class EvaluationConfig:
    """What two evaluations must share to be comparable.

    Attributes:
        samples: texts per prompt, each with a seed of its own that is the same for every method.
        scorer: whose scores steer.
        select: key of atlas.selection.RULES.
        keep_error: see Steering; the baseline `sae` drops the error always, it would be `original` otherwise.
        positions: see Steering.
        sampling: the same for every method; its seed is the first.
    """

    samples: int = 1
    scorer: str = "distance"
    select: str = DEFAULT_RULE
    keep_error: bool = KEEP_ERROR
    positions: str = "all"
    sampling: Sampling = Sampling(max_new_tokens=64)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise AtlasError(f"samples {self.samples} is below 1: give the number of texts per prompt")
        check_positions(self.positions)

    def conditions(self) -> dict[str, Any]:
        """What a picked strength holds under."""
        return {name: getattr(self, name) for name in ("scorer", "select", "keep_error", "positions")}

    def flat(self) -> dict[str, Any]:
        """As it is stored: one level of names."""
        values = asdict(self)
        return {**values, **values.pop("sampling")}


class Examiner:
    """A topic's steered model with everything its texts are measured by, loaded once.

    Args:
        atlas: an open atlas.
        topic: a scored topic.
        data: what to run on.
        config: how to run.
        sae_ids: which SAEs at once; None for the first that the topic is scored for.
        steerer: the loaded model and SAEs.
        encoder: the atlas's sentence encoder, when it is loaded already.
        models: models to generate with under a method's name, such as {"finetuned": model}.
    """

    def __init__(
        self,
        atlas: Atlas,
        topic: str,
        data: EvaluationSet,
        config: EvaluationConfig = EvaluationConfig(),
        *,
        sae_ids: Sequence[str | int] | None = None,
        steerer: Steerer | None = None,
        encoder: Any = None,
        models: Mapping[str, Any] | None = None,
    ) -> None:
        steerer = steerer or Steerer(atlas.store)
        self.steerer = steerer
        keys = None if sae_ids is None else [atlas.sae_key(one) for one in sae_ids]
        self.store, self.topic, self.data, self.config = atlas.store, topic, data, config
        ensure_signals(steerer, topic, config.select, keys)
        self.layers, self.scoring_ids, self.rows = steerer.layers(
            topic, keys, scorer=config.scorer, select=config.select
        )
        self.model, self.tokenizer = steerer.model
        self.prepend_bos = bool(self.rows[0]["prepend_bos"])
        self.models = dict(models or {})
        self.encoder = encoder or load_encoder(steerer.recorded_encoder)
        with atlas.store.read() as session:
            check_encoder(self.encoder, require_complete(session, atlas.store))
            self.topic_texts = session.ask("topic_texts", topic=topic)["text"].to_list()
            self.columns = [session.ask("matching_columns", sae_key=row["sae_key"]) for row in self.rows]
        overlap = sorted(set(self.topic_texts) & set(data.held_out))
        if overlap:
            raise AtlasError(
                f"{len(overlap)} held-out texts are among the topic's own, such as {overlap[0][:60]!r}: leave them out"
            )
        self.judge = Judge(
            self.model,
            self.tokenizer,
            self.prepend_bos,
            self.encoder,
            self.encoder.embed(self.topic_texts),
            self.encoder.embed(data.held_out),
            load_acceptability(),
        )
        self.sae_keys = [row["sae_key"] for row in self.rows]

    def run(self, setting: MethodSetting) -> Run:
        """Generate from every prompt under a method, and measure.

        A control moves the scores anew for every PERMUTATIONS-th prompt, so that no verdict hangs on one permutation.
        """
        config = self.config
        if setting.method not in self.models and setting.method == "finetuned":
            raise AtlasError("method finetuned has no model to generate with: give Examiner one in `models`")
        prompts = [prompt for prompt in self.data.prompts for _ in range(config.samples)]
        given = prompts
        if setting.method == "prefix":
            given = [f"{self.topic_texts[i % len(self.topic_texts)]} {prompt}" for i, prompt in enumerate(prompts)]
        parts = [list(range(first, len(given), PERMUTATIONS)) for first in range(PERMUTATIONS)]
        if setting.control is None:
            parts = [list(range(len(given)))]
        texts: dict[int, Generation] = {}
        for number, part in enumerate(parts):
            found = generate(
                self.models.get(setting.method, self.model),
                self.tokenizer,
                [given[i] for i in part],
                self._controlled(setting, number),
                method=setting.method if setting.method in METHODS else "original",
                options=setting.options,
                keep_error=config.keep_error and setting.method != "sae",
                positions=config.positions,
                prepend_bos=self.prepend_bos,
                sampling=config.sampling,
                seeds=[config.sampling.seed + i for i in part],
            )
            texts.update(zip(part, found, strict=True))
        run = Run(setting)
        run.generations = [replace(texts[i], method=setting.name, prompt=prompt) for i, prompt in enumerate(prompts)]
        run.values = measure(self.judge, run.generations)
        return run

    def detection(self) -> Run:
        """AUROC of held-out texts by the best neurons: as selected, by other rankings, and at random (mean and range)."""
        run = Run(MethodSetting("detection"))
        rankings = self._rankings()
        for i, (layer, row) in enumerate(zip(self.layers, self.rows, strict=True)):
            own, everyday, topics = (
                activity(self.model, self.tokenizer, layer, texts, prepend_bos=self.prepend_bos) if texts else None
                for texts in (self.data.held_out, self.data.unaligned, self.data.others)
            )
            support = self.columns[i]["support"].to_numpy()
            suffix = "" if len(self.rows) == 1 else f" ({row['sae_id']})"
            for name, ranked in rankings.items():
                for figure, value in detect(own, everyday, topics, ranked[i][:BEST]).items():
                    run.figures[figure + name + suffix] = value
            scored, best = rankings[BY_SCORE if BY_SCORE in rankings else ""][i], rankings[""][i][:BEST]
            generator = np.random.default_rng(self.config.sampling.seed)
            draws = [
                detect(own, everyday, topics, matched_neurons(support, scored, best, generator)) for _ in range(DRAWS)
            ]
            for figure in draws[0]:
                values = [draw[figure].value for draw in draws]
                run.figures[f"{figure} of random neurons{suffix}"] = Interval(
                    float(np.mean(values)), min(values), max(values)
                )
        return run

    def _rankings(self) -> dict[str, list[np.ndarray]]:
        """What a ranking is called in the figures -> neurons per SAE, best first."""
        found = {"": [layer.target.best.cpu().numpy() for layer in self.layers]}
        for name, scorer in ((BY_SCORE, "distance"), (" by strawman", "strawman")):
            if (self.config.scorer, self.config.select) == (scorer, "score"):
                continue
            with self.store.read() as session:
                scored = set(session.ask("current_scorings", topic=self.topic, scorer=scorer)["sae_key"])
            if not set(self.sae_keys) <= scored:
                continue
            layers = self.steerer.layers(self.topic, self.sae_keys, scorer=scorer, select="score").layers
            found[name] = [layer.target.best.cpu().numpy() for layer in layers]
        return found

    def layer_level(self, setting: MethodSetting) -> dict[str, Interval]:
        """What a method that edits the code does to held-out and to unaligned texts (first SAE)."""
        found = {}
        layer = self._controlled(setting)[0]
        for name, texts in (("aligned", self.data.held_out), ("unaligned", self.data.unaligned)):
            figures = layer_figures(
                self.model, self.tokenizer, layer, texts, setting.method, setting.options, prepend_bos=self.prepend_bos
            )
            for column, values in asdict(figures).items():
                mean = mean_interval(values[~np.isnan(values)])
                if mean is not None:
                    found[f"{column} on {name}"] = mean
        return found

    def _controlled(self, setting: MethodSetting, number: int = 0) -> list[Layer]:
        """The layers, under the control's permutation of that number."""
        if setting.control is None:
            return self.layers
        layers = []
        for layer, columns in zip(self.layers, self.columns, strict=True):
            support, norm = columns["support"].to_numpy(), columns["decoder_norm"].to_numpy()
            seed = self.config.sampling.seed + number
            layers.append(replace(layer, target=control_target(layer.target, setting.control, support, norm, seed)))
        return layers


def evaluate(examiner: Examiner, methods: Sequence[MethodSetting], *, progress: Progress = silent) -> pl.DataFrame:
    """Generate under every method and its controls, measure, and store.

    Args:
        examiner: a topic's steered model.
        methods: each scored one is joined by its controls; `original` and `sae` always take part.
        progress: called with (stage, done, total).

    Returns:
        A row per method and figure: method, name, value, low, high (95 %, paired by prompt).
    """
    settings = with_controls(methods)
    runs = []
    for done, setting in enumerate(settings):
        progress("generating", done, len(settings))
        runs.append(examiner.run(setting))
    progress("generating", len(settings), len(settings))
    compare(runs, examiner.data.prompts)
    progress("what the neurons find", 0, 0)
    for run in runs:
        if run.setting.method in METHODS and METHODS[run.setting.method].has_code:
            run.figures |= examiner.layer_level(run.setting)
    every = [examiner.detection(), *runs]
    store_runs(examiner.store, examiner.topic, every, examiner.scoring_ids, examiner.config.flat())
    return table(every)


def measure(
    judge: Judge, generations: Sequence[Generation], names: Sequence[str] = tuple(METRICS)
) -> dict[str, list[float | None]]:
    """Every metric of every text; the figures that came with the generation too."""
    prompts, texts = [g.prompt for g in generations], [g.text for g in generations]
    found: dict[str, list[float | None]] = {name: METRICS[name].measure(judge, prompts, texts) for name in names}
    own = {name: [getattr(g, name) for g in generations] for name in ("contamination", "kept", "new", "dropped")}
    return found | own


def compare(runs: Sequence[Run], prompts: Sequence[str]) -> None:
    """Give every run its means, and its differences, paired by prompt, from its baselines and its own shuffled control."""
    by_name = {run.setting.name: run for run in runs}
    for run in runs:
        against = [name for name in BASELINES if name != run.setting.name and name in by_name]
        control = f"{run.setting.method}/shuffled"
        if run.setting.control is None and control in by_name:
            against.append(control)
        for metric in run.values:
            own = run.per_prompt(metric, prompts)
            mean = mean_interval([value for value in own if value is not None])
            if mean is None:
                continue
            run.figures[metric] = mean
            for other in against:
                theirs = by_name[other].per_prompt(metric, prompts)
                pairs = [(a, b) for a, b in zip(own, theirs, strict=True) if a is not None and b is not None]
                difference = mean_interval([a - b for a, b in pairs])
                if difference is not None:
                    run.figures[f"{metric} - {other.rpartition('/')[2]}"] = difference
                if metric == "perplexity" and pairs:  # a ratio, and a mean that no single broken text decides
                    ratio = mean_interval([math.log(a / b) for a, b in pairs])
                    assert ratio is not None
                    ends = [None if end is None else math.exp(end) for end in ratio]
                    run.figures[f"perplexity / {other.rpartition('/')[2]}"] = Interval(math.exp(ratio.value), *ends[1:])


def detect(
    own: np.ndarray | None, everyday: np.ndarray | None, topics: np.ndarray | None, best: np.ndarray
) -> dict[str, Interval]:
    """AUROC of held-out texts against others by the summed activation of some neurons (method: section 6, point 1).

    Args:
        own, everyday, topics: mean activation per token of held-out, everyday and other topics' texts [text, d_sae].
        best: the neurons.
    """
    found = {}
    for name, other in (("everyday", everyday), ("topics", topics)):
        if own is not None and other is not None:
            found[f"auroc_{name}"] = auroc_interval(own[:, best].sum(1), other[:, best].sum(1))
    return found


def matched_neurons(
    support: np.ndarray, ranked: np.ndarray, best: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """For each of the best neurons another one that has a score, at random among the 50 nearest to it in support."""
    others = np.setdiff1d(ranked, best)
    size = support.astype(float)
    nearest = [others[np.argsort(np.abs(size[others] - size[b]), kind="stable")[:50]] for b in best]
    return np.array([generator.choice(choices) for choices in nearest])


def with_controls(methods: Sequence[MethodSetting]) -> list[MethodSetting]:
    """The baselines, then each method followed by its controls, options settled."""
    settings = [MethodSetting(name, settle_options(name, Options())) for name in BASELINES]
    for setting in methods:
        if setting.method in BASELINES:
            continue
        if setting.method not in METHODS:
            if setting.method not in ("prefix", "finetuned"):
                raise UnknownName("method", setting.method, [*METHODS, "prefix", "finetuned"])
            settings.append(setting)
            continue
        settled = settle_options(setting.method, setting.options)
        if METHODS[setting.method].vector is not None:
            raise AtlasError(
                f"method {setting.method} steers by a vector, not by a topic: evaluate it with `atlas choices`"
            )
        settings.append(MethodSetting(setting.method, settled))
        settings += [MethodSetting(setting.method, settled, control) for control in CONTROLS]
    return settings


def store_runs(
    store: Store, topic: str, runs: Sequence[Run], scoring_ids: Sequence[int], shared: Mapping[str, Any]
) -> int:
    """Append an evaluation to `runs`, `generations` and `metrics`; its id."""
    with store.write() as session:
        evaluation = int(session.value("next_evaluation_id"))
        first = int(session.value("next_run_id"))
        for run_id, run in enumerate(runs, start=first):
            parameters = {**asdict(run.setting), **shared}
            session.append(
                "runs",
                pl.DataFrame(
                    {
                        "run_id": [run_id],
                        "evaluation_id": [evaluation],
                        "topic": [topic],
                        "method": [run.setting.name],
                        "parameters": [json.dumps(parameters)],
                        "seed": [shared["seed"]],
                        "created_at": [now()],
                    }
                ),
            )
            ids = store_generations(
                session, run.generations, scoring_ids, {run.setting.name: parameters}, run_id=run_id
            )
            store_values(session, run_id, ids, {name: values for name, values in run.values.items() if name in METRICS})
            rows = [(run_id, name, *figure) for name, figure in run.figures.items()]
            schema = {
                "run_id": pl.UInt32,
                "name": pl.String,
                "value": pl.Float64,
                "low": pl.Float64,
                "high": pl.Float64,
            }
            session.append("metrics", pl.DataFrame(rows, schema=schema, orient="row"))
    return evaluation


def store_values(
    session: Session, run_id: int, ids: Sequence[int], values: Mapping[str, Sequence[float | None]]
) -> None:
    """Append figures of generations to `metrics`."""
    rows = [
        (run_id, generation_id, name, value)
        for name, found in values.items()
        for generation_id, value in zip(ids, found, strict=True)
        if value is not None
    ]
    schema = {"run_id": pl.UInt32, "generation_id": pl.UInt32, "name": pl.String, "value": pl.Float64}
    session.append("metrics", pl.DataFrame(rows, schema=schema, orient="row"))


def table(runs: Sequence[Run]) -> pl.DataFrame:
    """A row per method and figure."""
    rows = [(run.setting.name, name, *figure) for run in runs for name, figure in run.figures.items()]
    schema = {"method": pl.String, "name": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def measure_again(
    atlas: Atlas, topic: str, held_out: Sequence[str], *, steerer: Steerer | None = None, progress: Progress = silent
) -> int:
    """Give the stored texts of a topic's runs the metrics they lack, without generating; how many figures were added."""
    with atlas.store.read() as session:
        recorded = require_complete(session, atlas.store)
        topic_texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        rows = session.ask("run_generations", topic=topic)
        have = session.ask("run_metrics", topic=topic)
        prepend_bos = bool(session.ask("all_saes").to_dicts()[0]["prepend_bos"])
    if rows.is_empty():
        raise AtlasError(f"topic {topic!r} has no evaluated text: run `atlas evaluate` without --measure-again first")
    progress("loading model and encoder", 0, 0)
    model, tokenizer = (steerer or Steerer(atlas.store)).model
    encoder = load_encoder(str(recorded["encoder"]))
    check_encoder(encoder, recorded)
    judge = Judge(
        model,
        tokenizer,
        prepend_bos,
        encoder,
        encoder.embed(topic_texts),
        encoder.embed(held_out) if held_out else None,
        load_acceptability(),
    )
    added = 0
    for done, (name, metric) in enumerate(METRICS.items()):
        progress("measuring", done, len(METRICS))
        known = have.filter(pl.col("name") == name)["generation_id"]
        missing = rows.filter(~pl.col("generation_id").is_in(known.implode()))
        if missing.is_empty():
            continue
        values = metric.measure(judge, missing["prompt"].to_list(), missing["text"].to_list())
        frame = missing.select("run_id", "generation_id").with_columns(
            name=pl.lit(name), value=pl.Series(values, dtype=pl.Float64)
        )
        found = frame.filter(pl.col("value").is_not_null())
        with atlas.store.write() as session:
            session.append("metrics", found)
        added += found.height
    return added
