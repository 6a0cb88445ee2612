"""SAS's curves: what contrastive vectors do to two-choice answers, and what they cost (method: section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from atlas.contrast.make_vectors import compare_vectors, sweep_tau
from atlas.evaluation.choice_trial import PREFIX, ChoiceConfig, ChoiceSet
from atlas.evaluation.choices import evaluate_choices
from atlas.evaluation.figures import Figure
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.texts.pairs import PairSet, collect_pairs

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


TEXTS = 30  # everyday texts whose perplexity is the price
UNRELATED = 24  # pairs of the other behaviours that are answered, evenly over theirs: each costs two runs per setting
CONFIG = ChoiceConfig(
    position="mean", ablations=True
)  # for completions of several words the mean is cheaper than the last
WHOLE = ("sas", "sas/random", "dense", "dense/random")


def choices(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, method, strength, name, value, low, high of every behaviour; vectors go into a copy of the atlas."""
    if not inputs.texts.pairs:
        raise NotAvailable("there are no contrast pairs", "atlas reproduce {atlas} --out {out} --pairs FOLDER")
    recorded = inputs.recorded_of(inputs.copy)
    frames = []
    for name, pairs in inputs.texts.pairs.items():
        data = ChoiceSet(pairs, list(inputs.texts.unaligned)[:TEXTS], unrelated_pairs(inputs, name))
        found = evaluate_choices(
            inputs.copy.store, name, data, config=CONFIG, recorded=recorded, progress=inputs.progress
        )
        frames.append(found.with_columns(behaviour=pl.lit(name)))
    return pl.concat(frames)


def unrelated_pairs(inputs: ExhibitInputs, name: str) -> PairSet | None:
    """Some pairs of the other behaviours; None where there is one behaviour alone."""
    rows = [row for other, pairs in inputs.texts.pairs.items() if other != name for row in pairs.rows()]
    return collect_pairs(rows[:: max(1, len(rows) // UNRELATED)]) if rows else None


def shifts(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, method, answer, strength, value, low, high; at strength 0 nothing shifts."""
    names = {str(Figure("shift")): "plain", str(Figure("shift", after=PREFIX)): f"after '{PREFIX}'"}
    frame = inputs.once(choices).filter(pl.col("name").is_in(list(names)))
    frame = frame.with_columns(answer=pl.col("name").replace_strict(names))
    return with_zero(frame.drop("name"), ["behaviour", "method", "answer"], 0.0)


def shift(inputs: ExhibitInputs) -> pl.DataFrame:
    """The sparse and the dense vector beside their controls."""
    return shifts(inputs).filter(pl.col("method").is_in(WHOLE))


def ablations(inputs: ExhibitInputs) -> pl.DataFrame:
    """The sparse vector beside its ablations, plain answers."""
    own = pl.col("method").str.starts_with("sas") & (pl.col("method") != "sas/random")
    return shifts(inputs).filter(own & (pl.col("answer") == "plain"))


def price(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, method, strength, value, low, high: perplexity steered over unsteered."""
    frame = inputs.once(choices).filter(
        (pl.col("name") == str(Figure("perplexity ratio", unrelated=True))) & pl.col("method").is_in(WHOLE)
    )
    return with_zero(frame.drop("name"), ["behaviour", "method"], 1.0)


def unrelated(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, method, strength, value, low, high: change in the probability of other behaviours' matching completions."""
    frame = inputs.once(choices).filter(
        (pl.col("name") == str(Figure("shift", unrelated=True))) & pl.col("method").is_in(WHOLE)
    )
    if frame.is_empty():
        raise NotAvailable(
            "there are contrast pairs of one behaviour only", "atlas reproduce {atlas} --out {out} --pairs FOLDER"
        )
    return with_zero(frame.drop("name"), ["behaviour", "method"], 0.0)


def overlap(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, other, sae_id, kind, entries, other_entries, both, jaccard, cosine: each two behaviours once."""
    inputs.once(choices)
    names = {f"{name}/choices": name for name in inputs.texts.pairs}
    if len(names) < 2:
        raise NotAvailable(
            "there are contrast pairs of one behaviour only", "atlas reproduce {atlas} --out {out} --pairs FOLDER"
        )
    found = compare_vectors(inputs.copy.store).filter(pl.col("a").is_in(list(names)) & pl.col("b").is_in(list(names)))
    return found.select(
        pl.col("a").replace_strict(names).alias("behaviour"),
        pl.col("b").replace_strict(names).alias("other"),
        "sae_id", "kind", pl.col("entries_a").alias("entries"), pl.col("entries_b").alias("other_entries"), "both",
        "jaccard", "cosine",
    )  # fmt: skip


def sparsity(inputs: ExhibitInputs) -> pl.DataFrame:
    """behaviour, sae_id, d_sae, tau, entries of each behaviour's vector."""
    inputs.once(choices)  # which makes the vectors
    found = [
        sweep_tau(inputs.copy.store, f"{name}/choices").with_columns(behaviour=pl.lit(name))
        for name in inputs.texts.pairs
    ]
    return pl.concat(found).select("behaviour", "sae_id", "d_sae", "tau", "positive", "negative", "shared", "entries")


def with_zero(frame: pl.DataFrame, keys: list[str], value: float) -> pl.DataFrame:
    """The curves with their known point at strength 0."""
    ends = {name: pl.lit(value) for name in ("value", "low", "high")}
    zero = frame.select(keys).unique(maintain_order=True).with_columns(strength=pl.lit(0.0), **ends)
    columns = [*keys, "strength", "value", "low", "high"]
    return pl.concat([frame.select(columns), zero.select(columns)]).sort("strength", maintain_order=True)


def say_shift(frame: pl.DataFrame) -> str:
    """The shift at the ends of the range, plain answers."""
    ends = frame.filter(
        (pl.col("answer") == "plain") & pl.col("strength").is_in([frame["strength"].min(), frame["strength"].max()])
    )
    return "; ".join(
        f"{behaviour}, {method}: " + ", ".join(f"{row['value']:+.3f} at {row['strength']:g}" for row in mine.to_dicts())
        for (behaviour, method), mine in ends.group_by(["behaviour", "method"], maintain_order=True)
    )


def say_price(frame: pl.DataFrame) -> str:
    """The largest ratio per method."""
    most = frame.group_by("behaviour", "method", maintain_order=True).agg(pl.col("value").max())
    return "at most: " + "; ".join(
        f"{behaviour}, {method} {value:.2f}" for behaviour, method, value in most.iter_rows()
    )


def say_unrelated(frame: pl.DataFrame) -> str:
    """The largest change per method, in either direction."""
    most = frame.group_by("behaviour", "method", maintain_order=True).agg(
        pl.col("value").sort_by(pl.col("value").abs()).last()
    )
    return "at most: " + "; ".join(
        f"{behaviour}, {method} {value:+.3f}" for behaviour, method, value in most.iter_rows()
    )


def say_overlap(frame: pl.DataFrame) -> str:
    """Each pair of behaviours."""
    return "; ".join(
        f"{row['behaviour']} and {row['other']}, {row['kind']}, {row['sae_id']}: {row['both']} entries in both, "
        f"cosine {row['cosine']:+.2f}"
        for row in frame.to_dicts()
    )


def say_sparsity(frame: pl.DataFrame) -> str:
    """Entries at the tau that vectors are made with."""
    near = frame.filter((pl.col("tau") - 0.7).abs() < 0.01)
    return "entries at tau 0.7: " + "; ".join(
        f"{row['behaviour']}, {row['sae_id']} {row['entries']} of {row['d_sae']:,}" for row in near.to_dicts()
    )


def _draw_shift(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(panel=pl.format("{}\n{}", "behaviour", "answer"))
    return plots.lines(
        named, x="strength", series="method", panel="panel", log_x=False, zero=True,
        labels=("strength", "probability, steered minus unsteered"),
    )  # fmt: skip


def _draw_price(frame: pl.DataFrame) -> Picture:
    return plots.lines(
        frame, x="strength", series="method", panel="behaviour", log_x=False,
        labels=("strength", "perplexity, steered over unsteered"),
    )  # fmt: skip


def _draw_unrelated(frame: pl.DataFrame) -> Picture:
    return plots.lines(
        frame, x="strength", series="method", panel="behaviour", log_x=False, zero=True,
        labels=("strength", "probability, steered minus unsteered"),
    )  # fmt: skip


def _draw_overlap(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(value=pl.col("cosine"), panel=pl.format("{}\n{}", "sae_id", "kind"))
    names = list(dict.fromkeys([*frame["behaviour"], *frame["other"]]))
    own = named.select("panel").unique(maintain_order=True).join(pl.DataFrame({"behaviour": names}), how="cross")
    itself = own.with_columns(other=pl.col("behaviour"), value=pl.lit(1.0))
    columns = ["behaviour", "other", "panel", "value"]
    return plots.matrix(
        pl.concat([named.select(columns), itself.select(columns)]), row="behaviour", column="other", panel="panel",
        label="cosine of the vectors",
    )  # fmt: skip


def _draw_sparsity(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(value=pl.col("entries") / pl.col("d_sae"))
    return plots.lines(
        named, x="tau", series="behaviour", panel="sae_id", log_x=False,
        labels=("least share of pairs (tau)", "share of neurons in the vector"),
    )  # fmt: skip


EXHIBITS = {
    "sas_shift": Exhibit(
        "SAS: choices by strength",
        "Probability of the completion that shows a behaviour against the one that shows the opposite, steered minus "
        "unsteered, on contrast pairs that the vector was not made from; also with 'The answer is' before the completion. "
        "sas is the sparse vector, dense the dense one, /random the control: the same entries at other neurons, a random "
        "direction. Band: 95 % interval over pairs.",
        shift,
        say_shift,
        _draw_shift,
        paper="on par with the dense vector (its authors' claim)",
    ),
    "sas_ablations": Exhibit(
        "SAS: what each part does",
        "As above for the sparse vector whole, by its positive and by its negative part alone, and with the reconstruction "
        "error dropped.",
        ablations,
        say_shift,
        _draw_shift,
    ),
    "sas_price": Exhibit(
        "SAS: kept ability by strength",
        "Perplexity of everyday texts under the steered model over that under the unsteered one: 1 is no harm. Band: 95 % "
        "interval over texts.",
        price,
        say_price,
        _draw_price,
    ),
    "sas_unrelated": Exhibit(
        "SAS: unrelated questions by strength",
        "Probability of the matching completion in the contrast pairs of the other behaviours, steered minus unsteered: 0 is "
        "no harm. Band: 95 % interval over pairs.",
        unrelated,
        say_unrelated,
        _draw_unrelated,
    ),
    "sas_overlap": Exhibit(
        "SAS: overlap of behaviours",
        "Cosine between the vectors of two behaviours: sparse over the SAE's neurons, dense over the dimensions of its hook. "
        "The table counts the entries that both vectors have; jaccard is these over the entries that either has.",
        overlap,
        say_overlap,
        _draw_overlap,
        table=(("behaviour", "other"), ""),
    ),
    "sas_sparsity": Exhibit(
        "SAS: sparsity by tau",
        "Share of an SAE's neurons that a sparse vector keeps, when a neuron must fire on a side in at least the share tau of "
        "the pairs. SAEs of different width side by side.",
        sparsity,
        say_sparsity,
        _draw_sparsity,
    ),
}
