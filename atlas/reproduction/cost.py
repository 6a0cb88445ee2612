"""What it costs: the set-up, a topic, a token, each measured now on this machine (method: section 6, point 4)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import polars as pl

from atlas.models.tokens import special_ids
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.scoring.distances import make_distances
from atlas.steering.generation import Sampling, generate
from atlas.steering.intervention import Steering
from atlas.store.session import scan_here

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


SAMPLE = 64  # prompts that the set-up is measured on
TOKENS, REPEATS = 64, 3
METHODS = ("original", "sae", "clamp", "weight", "swap", "add")


def per_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """phase, step, seconds: what is paid once per atlas (scaled up from SAMPLE prompts), and what per topic."""
    steps: list[tuple[str, str, float]] = []
    encoder, texts = inputs.encoder, inputs.topic_texts(inputs.topic)
    with inputs.session() as session:
        prompts = session.ask("prompt_texts")["text"].to_list()
        scoring = session.ask("scoring", scoring_id=inputs.scorings[inputs.topic][inputs.saes[0]["sae_key"]])
        topic_id = int(session.value("topic_id", topic=inputs.topic))
    some = prompts[:: max(1, len(prompts) // SAMPLE)][:SAMPLE]
    scale = len(prompts) / len(some)
    inputs.progress("measuring the costs", 0, 0)
    once = f"set-up, once per atlas ({len(prompts):,} prompts)"
    steps.append((once, "embed the prompts", scale * timed(lambda: encoder.embed(some))))
    for row in inputs.saes:
        inputs.steered_sae(row["sae_key"])  # loaded before the clock starts
        took = timed(lambda row=row: inputs.activations(row, some))  # type: ignore[misc]
        steps.append((once, f"activations of {row['sae_id']}", scale * took))
    each = f"per topic ({len(texts)} texts)"
    steps.append((each, "embed the texts", timed(lambda: encoder.embed(texts))))
    chosen = scoring.to_dicts()[0]
    with inputs.session() as session, session.frame("wanted", pl.DataFrame({"topic_id": [topic_id]})):
        steps.append((each, "distances to the prompts", timed(lambda: make_distances(session, [topic_id]))))
        for row in inputs.saes:
            shared = {"sae_key": row["sae_key"], "summary": chosen["summary"]}

            def score(shared: dict = shared) -> None:
                session.run("make_factors", distance=chosen["distance"], power=chosen["power"], **shared)
                session.run("pivot_factors")
                scan_here(session, "sum_distances", **shared)
                session.run("compute_scores", min_support=chosen["min_support"], **shared)

            steps.append((each, f"scores of {row['sae_id']}", timed(score)))
    return pl.DataFrame(steps, schema=["phase", "step", "seconds"], orient="row")


def per_token(inputs: ExhibitInputs) -> pl.DataFrame:
    """method, value, low, high: milliseconds per token, median and range of REPEATS texts; KV cache on."""
    if not inputs.texts.prompts:
        raise NotAvailable(
            "there are no prompts to generate from", "atlas reproduce {atlas} --out {out} --prompts FILE"
        )
    row = inputs.saes[0]
    model = inputs.recorded.read_as(row)
    sae = inputs.steered_sae(row["sae_key"])
    rows = []
    for done, method in enumerate(METHODS):
        inputs.progress("measuring the cost per token", done, len(METHODS))

        steering = Steering(
            model.transformer,
            [sae],
            method=method,
            keep_error=False,
            special_ids=special_ids(model.tokenizer),
        )

        def run(tokens: int, steering: Steering = steering) -> None:
            generate(model, inputs.texts.prompts[:1], steering, sampling=Sampling(tokens))

        run(2)  # the first call of all is slower
        took = [1000 * timed(lambda run=run: run(TOKENS)) / TOKENS for _ in range(REPEATS)]  # type: ignore[misc]
        rows.append((method, statistics.median(took), min(took), max(took)))
    inputs.progress("measuring the cost per token", len(METHODS), len(METHODS))
    return pl.DataFrame(rows, schema=["method", "value", "low", "high"], orient="row")


def timed(function: Callable[[], object]) -> float:
    """Seconds a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def say_per_topic(frame: pl.DataFrame) -> str:
    """Totals per phase."""
    totals = frame.group_by("phase", maintain_order=True).agg(pl.col("seconds").sum())
    parts = []
    for phase, total in totals.iter_rows():
        steps = frame.filter(pl.col("phase") == phase)
        listed = ", ".join(f"{row['step']} {row['seconds']:.3g}" for row in steps.to_dicts())
        parts.append(f"{phase}: {total:.3g} s ({listed})")
    return "; ".join(parts)


def say_per_token(frame: pl.DataFrame) -> str:
    """Each method beside `original`."""
    values = dict(frame.select("method", "value").iter_rows())
    plain = values.pop("original")
    more = ", ".join(f"{name} {value:.1f} ({value - plain:+.1f})" for name, value in values.items())
    return f"milliseconds per token: original {plain:.1f}, {more}; {TOKENS} tokens of unsteered text {plain * TOKENS / 1000:.2f} s"


def _draw_per_topic(frame: pl.DataFrame) -> Picture:
    return plots.horizontal_bars(frame, row="step", value="seconds", panel="phase", label="seconds")


def _draw_per_token(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(panel=pl.lit("64 tokens, one prompt, KV cache on"))
    return plots.dots(named, row="method", series=None, panel="panel", label="milliseconds per token")


EXHIBITS = {
    "table_3": Exhibit(
        "Cost of the set-up and of a topic",
        f"Seconds, measured now on this machine in one run. The set-up is measured on {SAMPLE} prompts and scaled up to "
        "the atlas.",
        per_topic,
        say_per_topic,
        _draw_per_topic,
        paper="62 s per topic, of which 56 s embed, 2.4 s distance, 3.7 s score (V100, GPT-2, 32,768 neurons, 8K prompts)",
        table=(("phase", "step"), ""),
    ),
    "table_4": Exhibit(
        "Cost of a token",
        f"Milliseconds per generated token, median and range of {REPEATS} texts of {TOKENS} tokens.",
        per_token,
        say_per_token,
        _draw_per_token,
        paper="64 tokens in 6.204 s unsteered and 6.263 s under swap (V100, GPT-2, no KV cache): 0.9 ms more per token",
        table=(("method",), ""),
    ),
}
