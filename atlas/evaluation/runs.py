"""Runs of an evaluation: a method's texts and figures, how they are compared, and how they are stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from atlas.evaluation.figures import Figure
from atlas.evaluation.intervals import Interval, mean_interval
from atlas.steering.generation import Generation
from atlas.steering.generations import METRIC_SCHEMA, OWN_FIGURES, Source, store_generations, store_values
from atlas.steering.settings import Options
from atlas.store.file import Store
from atlas.store.session import Session, now

BASELINES = ("original", "sae")
SHUFFLED = "shuffled"  # the control that a method is compared with, see atlas.evaluation.controls


@dataclass(frozen=True)
class MethodSetting:
    """A steering method as it is evaluated.

    Attributes:
        method: key of METHODS, or "prefix" or "finetuned".
        options: settings; None where the method's defaults are meant.
        control: key of CONTROLS, or None.
        ablation: key of ABLATIONS, or None.
    """

    method: str
    options: Options = Options()
    control: str | None = None
    ablation: str | None = None

    @property
    def name(self) -> str:
        """The method's name, followed by that of its control or ablation, such as "swap/shuffled"."""
        variant = self.control or self.ablation
        return self.method if variant is None else f"{self.method}/{variant}"

    def flat(self) -> dict[str, Any]:
        """As it is stored: an ablation stands in the place of a control."""
        return {"method": self.method, "options": asdict(self.options), "control": self.control or self.ablation}


@dataclass
class Run:
    """One method of an evaluation, or one part of it: its texts and figures.

    Attributes:
        setting: the method.
        generations: its texts.
        values: metric -> a value per text.
        figures: what is said of the run as a whole.
        parameters: what it does not share with the other runs of the evaluation; stored with them.
        scoring_ids: the scorings that steered it.
        vector_ids: the vectors that steered it.
    """

    setting: MethodSetting
    generations: list[Generation] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    figures: dict[Figure, Interval] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    scoring_ids: Sequence[int] = ()
    vector_ids: Sequence[int] = ()

    def per_prompt(self, metric: str, prompts: Sequence[str]) -> list[float | None]:
        """The mean over a prompt's samples, per prompt."""
        sums: dict[str, list[float]] = {prompt: [] for prompt in prompts}
        for generation, value in zip(self.generations, self.values[metric], strict=True):
            if value is not None:
                sums[generation.prompt].append(value)
        return [sum(found) / len(found) if found else None for found in sums.values()]


def compare(runs: Sequence[Run], prompts: Sequence[str]) -> None:
    """Give every run its means, and its differences, paired by prompt, from its baselines and its own shuffled control."""
    by_name = {run.setting.name: run for run in runs}
    for run in runs:
        against = {name: by_name[name] for name in BASELINES if name != run.setting.name and name in by_name}
        control = f"{run.setting.method}/{SHUFFLED}"
        if run.setting.control is None and run.setting.ablation is None and control in by_name:
            against[SHUFFLED] = by_name[control]
        for metric in run.values:
            own = run.per_prompt(metric, prompts)
            mean = mean_interval([value for value in own if value is not None])
            if mean is None:
                continue
            run.figures[Figure(metric)] = mean
            for other, of_other in against.items():
                theirs = of_other.per_prompt(metric, prompts)
                pairs = [(a, b) for a, b in zip(own, theirs, strict=True) if a is not None and b is not None]
                difference = mean_interval([a - b for a, b in pairs])
                if difference is not None:
                    run.figures[Figure(metric, minus=other)] = difference
                if metric == "perplexity" and pairs:  # a ratio, and a mean that no single broken text decides
                    ratio = mean_interval([math.log(a / b) for a, b in pairs])
                    if ratio is not None:
                        ends = [None if end is None else math.exp(end) for end in ratio]
                        run.figures[Figure(metric, over=other)] = Interval(math.exp(ratio.value), *ends[1:])


def table(runs: Sequence[Run]) -> pl.DataFrame:
    """A row per method and figure."""
    rows = [(run.setting.name, str(figure), *found) for run in runs for figure, found in run.figures.items()]
    schema = {"method": pl.String, "name": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def store_runs(store: Store, topic: str, runs: Sequence[Run], shared: Mapping[str, Any]) -> int:
    """Append an evaluation to `runs`, `generations` and `metrics`; its id. `shared` settings include the seed."""
    with store.write() as session:
        evaluation = session.next_id("evaluation_id")
        first = session.next_id("run_id")
        for run_id, run in enumerate(runs, start=first):
            parameters = {**run.setting.flat(), **shared, **run.parameters}
            source = Source(parameters, run.scoring_ids, run.vector_ids)
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
            ids = store_generations(session, run.generations, {run.setting.name: source}, run_id=run_id)
            store_values(session, run_id, ids, {n: values for n, values in run.values.items() if n not in OWN_FIGURES})
            store_figures(session, run_id, run.figures)
    return evaluation


def store_figures(session: Session, run_id: int, figures: Mapping[Figure, Interval]) -> None:
    """Append figures of a run as a whole to `metrics`."""
    rows = [(run_id, None, str(figure), *found) for figure, found in figures.items()]
    session.append("metrics", pl.DataFrame(rows, schema=METRIC_SCHEMA, orient="row"))
