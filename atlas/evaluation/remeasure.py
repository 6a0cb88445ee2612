"""Measure stored texts again: give them metrics that are new, and renew the figures of their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from atlas.errors import AtlasError
from atlas.evaluation.figures import JUDGED
from atlas.evaluation.language_judge import load_language_judge
from atlas.evaluation.metrics import METRICS, MetricInputs, make_metric_inputs
from atlas.evaluation.nearest_topic import make_classifier
from atlas.evaluation.runs import MethodSetting, Run, compare, store_figures
from atlas.evaluation.vector_variants import ABLATIONS
from atlas.models.encoders import check_encoder, load_encoder
from atlas.models.loaded import LoadedModel
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.steering.generation import Generation
from atlas.steering.generations import OWN_FIGURES
from atlas.store.file import Store
from atlas.store.session import Asks, Session
from atlas.store.state import require_complete
from atlas.store.waiting import patient


def remeasure_topic(
    store: Store,
    topic: str,
    held_out: Sequence[str],
    *,
    recorded: RecordedModels | None = None,
    encoder: str | None = None,
    others: Mapping[str, Sequence[str]] | None = None,
    judge: str | None = None,
    progress: Progress = silent,
) -> int:
    """Give the stored texts of a topic's runs the metrics they lack, without generating, and renew the runs' figures.

    Each text is judged behind what stood before it: BOS as the SAE wants it that its evaluation steered by, a chat template.
    Figures of another judging model than the named one are replaced.

    Args:
        store: a finished atlas.
        topic: the topic, or the behaviour of a vector.
        held_out: texts about it that it was not scored by; may be empty.
        recorded: the loaded model.
        encoder: where the sentence encoder is now; None for where it was at build.
        others: other topics -> texts about them; None for none.
        judge: a language model that judges acceptability; None for none.
        progress: called with (stage, done, total).

    Returns:
        How many figures of texts were added.

    Raises:
        AtlasError: the topic has no evaluated text, or it cannot be told by which SAE its texts were steered.
    """
    with store.read() as session:
        built = require_complete(session, store)
        topic_texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        texts = session.ask("run_generations", topic=topic)
        have = session.ask("run_metrics", topic=topic)
        openings = _openings(session, topic)
        runs = session.ask("topic_runs", topic=topic)
    if texts.is_empty():
        raise AtlasError(f"topic {topic!r} has no evaluated text: run `atlas evaluate` without --measure-again first")
    progress("loading model and encoder", 0, 0)
    recorded = recorded or RecordedModels(store)
    model = LoadedModel(*recorded.model, prepend_bos=True)
    loaded = load_encoder(encoder or str(built["encoder"]))
    check_encoder(loaded, built)
    inputs = make_metric_inputs(
        model,
        loaded,
        topic=topic_texts,
        held_out=held_out,
        language=None if judge is None else load_language_judge(recorded, judge, device=recorded.device),
        classifier=make_classifier(loaded, topic, held_out, others or {}),
    )
    texts = texts.with_columns(opening=pl.col("run_id").replace_strict(openings, return_dtype=pl.String))
    stale = _judged_by_another(runs, inputs)
    found = []
    for done, (name, metric) in enumerate(METRICS.items()):
        progress("measuring", done, len(METRICS))
        known = have.filter(pl.col("name") == name)
        if name in JUDGED:
            known = known.filter(~pl.col("run_id").is_in(stale))
        missing = texts.filter(~pl.col("generation_id").is_in(known["generation_id"].implode()))
        for (opening,), part in missing.group_by("opening"):
            own = replace(inputs, model=replace(model, **json.loads(str(opening))))
            values = metric.measure(own, part["prompt"].to_list(), part["text"].to_list())
            measured = part.select("run_id", "generation_id").with_columns(
                name=pl.lit(name), value=pl.Series(values, dtype=pl.Float64)
            )
            found.append(measured.filter(pl.col("value").is_not_null()))
    progress("measuring", len(METRICS), len(METRICS))
    added = pl.concat(found) if found else texts.select("run_id", "generation_id").clear()
    if added.height:
        with patient(), store.write() as session:  # measuring took long
            for run_id in stale:
                session.run("drop_text_figures", run_id=run_id, names=list(JUDGED))
            session.append("metrics", added)
            _say_by_what(session, runs, added, inputs)
            renew_figures(session, topic)
    return added.height


def _judged_by_another(runs: pl.DataFrame, inputs: MetricInputs) -> list[int]:
    """The runs whose texts were judged by another language model than the one at hand; none where none is at hand."""
    if inputs.language is None:
        return []
    own = inputs.language.describe()
    judges = {row["run_id"]: json.loads(row["parameters"]).get("judge") for row in runs.to_dicts()}
    return [run_id for run_id, judge in judges.items() if judge is not None and judge != own]


def _say_by_what(session: Session, runs: pl.DataFrame, added: pl.DataFrame, inputs: MetricInputs) -> None:
    """Write into the runs what their new figures were measured by, and how well the classifier does into those of detection."""
    by_metric = {"on_topic": "classifier", **dict.fromkeys(JUDGED, "judge")}
    described = inputs.describe()
    evaluations = set()
    for row in runs.to_dicts():
        names = set(added.filter(pl.col("run_id") == row["run_id"])["name"])
        new = {key: described[key] for name, key in by_metric.items() if name in names}
        if not new:
            continue
        session.run(
            "set_run_parameters", run_id=row["run_id"], parameters=json.dumps({**json.loads(row["parameters"]), **new})
        )
        if "classifier" in new:
            evaluations.add(row["evaluation_id"])
    figures = inputs.own_figures()
    for row in runs.filter(pl.col("evaluation_id").is_in(evaluations) & (pl.col("method") == "detection")).to_dicts():
        session.run("drop_run_figures", run_id=row["run_id"], names=[str(figure) for figure in figures])
        store_figures(session, row["run_id"], figures)


def renew_figures(session: Session, topic: str) -> None:
    """Compute the means, intervals and differences of a topic's runs anew from the figures of their texts.

    Runs of one evaluation that differ in what stands before their texts have unsteered texts of their own.
    """
    openings = _openings(session, topic)
    runs = session.ask("topic_runs", topic=topic).with_columns(
        opening=pl.col("run_id").replace_strict(openings, return_dtype=pl.String)
    )
    values = session.ask("run_metrics", topic=topic).pivot("name", index="generation_id", values="value")
    texts = session.ask("run_generations", topic=topic).join(
        values, on="generation_id", how="left", maintain_order="left"
    )
    names = values.columns[1:]
    for _, group in runs.group_by("evaluation_id", "opening", maintain_order=True):
        found = {row["run_id"]: _stored_run(row, texts.filter(pl.col("run_id") == row["run_id"]), names)
                 for row in group.to_dicts()}  # fmt: skip
        with_texts = {run_id: run for run_id, run in found.items() if run.generations}
        prompts = list(dict.fromkeys(text.prompt for run in with_texts.values() for text in run.generations))
        compare(list(with_texts.values()), prompts)
        for run_id, run in with_texts.items():
            session.run("drop_run_figures", run_id=run_id, names=[str(figure) for figure in run.figures])
            store_figures(session, run_id, run.figures)


def _stored_run(row: dict[str, Any], texts: pl.DataFrame, names: Sequence[str]) -> Run:
    """A run as it was: its texts, and the value of every metric of each."""
    parameters = json.loads(row["parameters"])
    generations = [
        Generation(*(text[name] for name in ("method", "prompt", "text", "seed")), *(text.get(n) for n in OWN_FIGURES))
        for text in texts.to_dicts()
    ]
    values = {name: texts[name].to_list() for name in names}
    variant = parameters["control"]
    ablation = variant if variant in ABLATIONS else None
    control = variant if ablation is None else None
    return Run(MethodSetting(parameters["method"], control=control, ablation=ablation), generations, values)


def _openings(session: Asks, topic: str) -> dict[int, str]:
    """run_id -> what stands before its texts: fields of LoadedModel, as JSON."""
    saes = {row["sae_key"]: bool(row["prepend_bos"]) for row in session.ask("all_saes").to_dicts()}
    found = {}
    for row in session.ask("topic_runs", topic=topic).to_dicts():
        possible = set(saes.values()) if row["sae_key"] is None else {saes[row["sae_key"]]}
        if len(possible) > 1:
            raise AtlasError(
                f"run {row['run_id']} of topic {topic!r} does not say which SAE steered it, and the atlas's SAEs differ in "
                "their BOS policy: evaluate it again"
            )
        parameters = json.loads(row["parameters"])
        system = parameters.get("system")
        opening = {
            "prepend_bos": possible.pop(),
            "chat": bool(parameters.get("chat")),
            "system": system if isinstance(system, str) else None,
        }
        found[row["run_id"]] = json.dumps(opening)
    return found
