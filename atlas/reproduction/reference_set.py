"""How large must a reference set be? Coverage, prompts per neuron, stability of a ranking (method: section 6, point 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.scoring.distances import make_distances
from atlas.scoring.stability import compare_samples

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


SAMPLES = 5  # random orders of the prompts
SMALLEST = 6  # the first size is 2 ** this


def prompt_orders(prompts: int) -> np.ndarray:
    """Random orders of the prompts [SAMPLES, prompt]: the place of each; the same in every exhibit."""
    generator = np.random.default_rng(0)
    return np.stack([generator.permutation(prompts) for _ in range(SAMPLES)])


def set_sizes(prompts: int) -> list[int]:
    """2 ** 6, 2 ** 7, ... and the whole set."""
    if prompts <= 2**SMALLEST:
        raise NotAvailable(f"the atlas has {prompts} prompts, no more than the smallest set of {2**SMALLEST}")
    return [2**k for k in range(SMALLEST, 40) if 2**k < prompts] + [prompts]


def coverage(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, prompts, least (1 or 20), value, low, high: mean, least and greatest coverage over random sets."""
    with inputs.session() as session:
        ids = session.ask("embedding_vectors")["prompt_id"].to_numpy()
        orders = pl.concat(
            pl.DataFrame({"sample": sample, "prompt_id": ids, "place": places})
            for sample, places in enumerate(prompt_orders(len(ids)))
        )
        sizes = pl.DataFrame({"size": set_sizes(len(ids))})
        with session.frame("orders", orders), session.frame("sizes", sizes):
            found = session.ask("coverage_by_size")
    long = found.unpivot(["coverage", "coverage_20"], index=["sae_id", "sample", "size"], variable_name="least")
    named = long.with_columns(pl.col("least").replace_strict({"coverage": 1, "coverage_20": 20}), prompts="size")
    return spread_over_samples(named, ["sae_id", "prompts", "least"])


def support(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, from_prompts, to_prompts, neurons, share: how many neurons fired on so many prompts."""
    with inputs.session() as session:
        return session.ask("support_counts")


def rank_stability(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, prompts, figure, value, low, high: a topic's ranking over random sets against that over all prompts."""
    rows = []
    with inputs.session() as session:
        ids = session.ask("embedding_vectors")["prompt_id"].to_numpy()
        sizes, orders = set_sizes(len(ids)), prompt_orders(len(ids))
        topic_id = int(session.value("topic_id", topic=inputs.topic))
        make_distances(session, [topic_id])
        for row in inputs.saes:
            scoring_id = inputs.scorings[inputs.topic][row["sae_key"]]
            for place, size in enumerate(sizes):
                inputs.progress(f"rank stability, {row['sae_id']}", place, len(sizes))
                for order in orders:
                    samples = pl.DataFrame({"prompt_id": ids, "sample_0": (order < size).astype(np.int64)})
                    found = compare_samples(session, scoring_id, topic_id, samples)
                    rows.append({"sae_id": row["sae_id"], "prompts": size, **found})
    names = {"rank_stability": "Spearman correlation", "top_overlap": "share of the 20 best"}
    long = pl.DataFrame(rows).unpivot(list(names), index=["sae_id", "prompts"], variable_name="figure")
    return spread_over_samples(
        long.with_columns(pl.col("figure").replace_strict(names)), ["sae_id", "prompts", "figure"]
    )


def spread_over_samples(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Mean, least and greatest `value` per keys."""
    value = pl.col("value")
    return frame.group_by(keys, maintain_order=True).agg(
        value.mean().alias("value"), value.min().alias("low"), value.max().alias("high")
    )


def say_coverage(frame: pl.DataFrame) -> str:
    """One clause per SAE."""
    whole = frame.filter(pl.col("prompts") == pl.col("prompts").max())
    half = frame.filter(pl.col("prompts") < pl.col("prompts").max()).filter(
        pl.col("prompts") == pl.col("prompts").max()
    )
    parts = []
    for sae_id in whole["sae_id"].unique(maintain_order=True):
        mine = {row["least"]: row["value"] for row in whole.filter(pl.col("sae_id") == sae_id).to_dicts()}
        less = {row["least"]: row["value"] for row in half.filter(pl.col("sae_id") == sae_id).to_dicts()}
        parts.append(
            f"{sae_id}: {mine[1]:.1%} of neurons fired on 1 prompt or more, {mine[20]:.1%} on 20 or more "
            f"({less[20]:.1%} with {half['prompts'][0]:,} prompts)"
        )
    return f"{whole['prompts'][0]:,} prompts. " + "; ".join(parts)


def say_support(frame: pl.DataFrame) -> str:
    """The share below 20 cannot be read off doubling ranges, so that below 16 is given."""
    few = frame.filter(pl.col("to_prompts") < 16).group_by("sae_id", maintain_order=True).agg(pl.col("share").sum())
    return "on fewer than 16 prompts fired " + "; ".join(
        f"{s:.1%} of the neurons of {name}" for name, s in few.iter_rows()
    )


def say_stability(frame: pl.DataFrame) -> str:
    """The largest set that is not the whole."""
    rest = frame.filter(pl.col("prompts") < pl.col("prompts").max())
    last = rest.filter(pl.col("prompts") == pl.col("prompts").max())
    return f"with {last['prompts'][0]:,} prompts: " + "; ".join(
        f"{row['sae_id']} {row['figure']} {row['value']:.2f}" for row in last.to_dicts()
    )


def _draw_coverage(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(pl.col("least").replace_strict({1: "on 1 prompt or more", 20: "on 20 or more"}))
    return plots.lines(
        named, x="prompts", series="least", panel="sae_id", ticks=True, y=(0, 1.02),
        labels=("prompts in the reference set", "share of neurons that fired"),
    )  # fmt: skip


def _draw_support(frame: pl.DataFrame) -> Picture:
    span = (
        pl.when(pl.col("to_prompts") <= pl.col("from_prompts"))
        .then(pl.col("from_prompts").cast(pl.String))
        .otherwise(pl.format("{}-{}", "from_prompts", "to_prompts"))
    )
    return plots.bars(
        frame.with_columns(span=span), x="span", y="share", panel="sae_id",
        labels=("prompts on which a neuron fired", "share of neurons"),
    )  # fmt: skip


def _draw_stability(frame: pl.DataFrame) -> Picture:
    return plots.lines(
        frame, x="prompts", series="figure", panel="sae_id", ticks=True, y=(-0.1, 1.02),
        labels=("prompts in the reference set", "agreement with the whole set"),
    )  # fmt: skip


EXHIBITS = {
    "figure_3": Exhibit(
        "Coverage by the size of the reference set",
        "Share of neurons that fired on at least 1 and at least 20 prompts of a random set, and of the whole one. Line: mean "
        f"of {SAMPLES} random sets; band: least and greatest. A neuron below 20 has no score.",
        coverage,
        say_coverage,
        _draw_coverage,
    ),
    "figure_8": Exhibit(
        "Prompts per neuron",
        "On how many reference prompts a neuron fired, in ranges that double.",
        support,
        say_support,
        _draw_support,
    ),
    "rank_stability": Exhibit(
        "Stability of a topic's ranking",
        "The ranking of the neurons over a random part of the prompts against that over all: Spearman correlation, and the "
        f"share of the 20 best that are the same. Line: mean of {SAMPLES} random sets; band: least and greatest.",
        rank_stability,
        say_stability,
        _draw_stability,
    ),
}
