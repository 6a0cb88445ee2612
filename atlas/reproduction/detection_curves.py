"""Do the best neurons find the topic in texts they were not scored by? (method: section 6, point 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from atlas.auroc import auroc
from atlas.errors import AtlasError
from atlas.evaluation.controls import control_target
from atlas.evaluation.detection import BEST, detect_by_sums
from atlas.evaluation.intervals import mean_interval
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable, TokenActivations
from atlas.steering.selection import DEFAULT_RULE

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


RANKINGS = 5  # at random, by each of which a whole curve is drawn
OWN, STRAWMAN, RANDOM = "score", "strawman", "random neurons"
MEASURES = {
    "share": "share of tokens, held-out minus everyday",
    "everyday": "AUROC against everyday texts",
    "topics": "AUROC against other topics' texts",
}


def curves(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, measure, ranking, neurons, value, low, high: detection of one topic by its k best neurons."""
    rows = []
    for row in inputs.saes:
        own, everyday, others = text_activations(inputs, row, inputs.topic)
        for name, rankings in rankings_of(inputs, row, inputs.topic).items():
            for most in numbers(row["d_sae"]):
                found: dict[str, list[float]] = {}
                for ranks in rankings:
                    for measure, value in measures(own, everyday, others, ranks, most).items():
                        found.setdefault(measure, []).append(value)
                rows += [
                    (row["sae_id"], MEASURES[measure], name, most, float(np.mean(values)), min(values), max(values))
                    for measure, values in found.items()
                ]
    columns = ["sae_id", "measure", "ranking", "neurons", "value", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def curves_by_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """topic, sae_id, ranking, neurons, value: difference of the shares of tokens, for every topic."""
    rows = []
    for done, topic in enumerate(tested(inputs)):
        inputs.progress("what the neurons find", done, len(inputs.tested))
        for row in inputs.saes:
            own, everyday, _ = text_activations(inputs, row, topic)
            ranks = ranks_of(inputs.steered_sae(row["sae_key"], topic).target.best.cpu().numpy(), row["d_sae"])
            shares = [np.sort(fired.best_ranks(ranks)) for fired in (own, everyday)]
            for most in numbers(row["d_sae"]):
                found = [np.searchsorted(ranked, most) / len(ranked) for ranked in shares]
                rows.append((topic, row["sae_id"], most, float(found[0] - found[1])))
    inputs.progress("what the neurons find", len(inputs.tested), len(inputs.tested))
    return pl.DataFrame(rows, schema=["topic", "sae_id", "neurons", "value"], orient="row")


def auroc_by_topic(inputs: ExhibitInputs) -> pl.DataFrame:
    """topic, sae_id, negatives, ranking, value, low, high: AUROC of held-out texts by the 20 best neurons."""
    rows = []
    for topic in tested(inputs):
        for row in inputs.saes:
            own, everyday, others = text_activations(inputs, row, topic)
            negatives = {"everyday texts": everyday} | ({} if others is None else {"other topics": others})
            areas = {
                ranking: [
                    detect_by_sums(
                        own.sums(ranks, BEST), {name: one.sums(ranks, BEST) for name, one in negatives.items()}
                    )
                    for ranks in drawn
                ]
                for ranking, drawn in rankings_of(inputs, row, topic).items()
            }
            for name in negatives:
                for ranking, found in areas.items():
                    figure = found[0][name] if len(found) == 1 else mean_interval([one[name].value for one in found])
                    if figure is not None:
                        rows.append((topic, row["sae_id"], name, ranking, *figure))
    columns = ["topic", "sae_id", "negatives", "ranking", "value", "low", "high"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def tested(inputs: ExhibitInputs) -> list[str]:
    """Topics with held-out texts; NotAvailable when there is none."""
    if not inputs.tested:
        inputs.held_out(inputs.topic)
    return inputs.tested


def text_activations(
    inputs: ExhibitInputs, row: Mapping[str, Any], topic: str
) -> tuple[TokenActivations, TokenActivations, TokenActivations | None]:
    """An SAE's active neurons on held-out texts, everyday texts and the other topics' held-out texts."""
    own = inputs.activations(row, inputs.held_out(topic))
    if not inputs.texts.unaligned:
        raise NotAvailable("there are no everyday texts", "atlas reproduce {atlas} --out {out} --unaligned FILE")
    everyday = inputs.activations(row, inputs.texts.unaligned)
    others = [inputs.activations(row, inputs.held_out(name)) for name in inputs.tested if name != topic]
    return own, everyday, join(others) if others else None


def join(parts: list[TokenActivations]) -> TokenActivations:
    """Several sets of texts as one."""
    tokens = np.cumsum([0, *(part.tokens.sum() for part in parts)])
    texts = np.cumsum([0, *(len(part.tokens) for part in parts)])
    return TokenActivations(
        np.concatenate([part.token + start for part, start in zip(parts, tokens, strict=False)]),
        np.concatenate([part.text + start for part, start in zip(parts, texts, strict=False)]),
        np.concatenate([part.neuron for part in parts]),
        np.concatenate([part.activation for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )


def rankings_of(inputs: ExhibitInputs, row: Mapping[str, Any], topic: str) -> dict[str, list[np.ndarray]]:
    """Ranks [d_sae] by score, by the scorer strawman, and at random among matched neurons."""
    target, columns = inputs.steered_sae(row["sae_key"], topic).target, inputs.columns(row["sae_key"])
    support, norm = columns["support"].to_numpy(), columns["decoder_norm"].to_numpy()
    drawn = [control_target(target, "random", support, norm, seed).best.cpu().numpy() for seed in range(RANKINGS)]
    found = {
        OWN: [ranks_of(target.best.cpu().numpy(), row["d_sae"])],
        STRAWMAN: [ranks_of(inputs.strawman(row["sae_key"], topic), row["d_sae"])],
        RANDOM: [ranks_of(best, row["d_sae"]) for best in drawn],
    }
    if DEFAULT_RULE != OWN:
        with contextlib.suppress(AtlasError):  # the rule chooses no neuron of this topic: there is nothing to rank
            found[f"rule {DEFAULT_RULE}"] = [ranks_of(inputs.selected(row["sae_key"], topic), row["d_sae"])]
    return found


def ranks_of(best: np.ndarray, width: int) -> np.ndarray:
    """Rank of each neuron, 0 for the first of `best`; `width` for one that is not there [width]."""
    ranks = np.full(width, width)
    ranks[best] = np.arange(len(best))
    return ranks


def numbers(width: int) -> list[int]:
    """About 40 numbers of neurons from 1 to `width`, evenly spaced in their logarithm."""
    return sorted({round(n) for n in np.geomspace(1, width, 40)})


def measures(
    own: TokenActivations, everyday: TokenActivations, others: TokenActivations | None, ranks: np.ndarray, most: int
) -> dict[str, float]:
    """MEASURES by the neurons of rank below `most`."""
    share = [(fired.best_ranks(ranks) < most).mean() for fired in (own, everyday)]
    sums = own.sums(ranks, most)
    found = {"share": float(share[0] - share[1]), "everyday": auroc(sums, everyday.sums(ranks, most))}
    return found if others is None else {**found, "topics": auroc(sums, others.sums(ranks, most))}


def say_curves(frame: pl.DataFrame) -> str:
    """Where the difference is largest, and the AUROC of the 20 best or so, per SAE."""
    parts = []
    for (sae_id,), mine in frame.filter(pl.col("ranking") == OWN).group_by(["sae_id"], maintain_order=True):
        share = mine.filter(pl.col("measure") == MEASURES["share"]).sort("value", descending=True).row(0, named=True)
        near = mine.filter(pl.col("measure") == MEASURES["everyday"]).sort((pl.col("neurons") - BEST).abs())
        parts.append(
            f"{sae_id}: difference at most {share['value']:.2f}, by {share['neurons']} neurons; "
            f"AUROC by {near['neurons'][0]} neurons {near['value'][0]:.3f}"
        )
    return "; ".join(parts)


def say_curves_by_topic(frame: pl.DataFrame) -> str:
    """The largest difference of each topic, averaged."""
    best = frame.group_by("sae_id", "topic", maintain_order=True).agg(pl.col("value").max())
    means = best.group_by("sae_id", maintain_order=True).agg(pl.col("value").mean())
    return "largest difference, mean over topics: " + "; ".join(
        f"{sae} {value:.2f}" for sae, value in means.iter_rows()
    )


def say_auroc(frame: pl.DataFrame) -> str:
    """Mean over topics."""
    keys = ["sae_id", "negatives", "ranking"]
    means = frame.group_by(keys, maintain_order=True).agg(pl.col("value").mean())
    return "mean over topics: " + "; ".join(
        f"{sae}, {negatives}: " + ", ".join(f"{row['ranking']} {row['value']:.3f}" for row in mine.to_dicts())
        for (sae, negatives), mine in means.group_by(["sae_id", "negatives"], maintain_order=True)
    )


def _draw_curves(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(panel=pl.format("{}\n{}", "sae_id", "measure"))
    return plots.lines(
        named, x="neurons", series="ranking", panel="panel", columns=frame["measure"].n_unique(), share_y=False,
        labels=("k best neurons", ""),
    )  # fmt: skip


def _draw_curves_by_topic(frame: pl.DataFrame) -> Picture:
    return plots.lines(
        frame, x="neurons", series="sae_id", panel="topic", columns=4, zero=True,
        labels=("k best neurons", "difference of shares"),
    )  # fmt: skip


def _draw_auroc(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(panel=pl.format("{}\nagainst {}", "sae_id", "negatives"))
    return plots.dots(named, row="topic", series="ranking", panel="panel", label="AUROC", mark=0.5, share_x=True)


EXHIBITS = {
    "figure_4": Exhibit(
        "Do the best neurons find the topic?",
        "For the k best neurons: the share of tokens of held-out texts on which one of them fires, minus the same share in "
        "everyday texts; and the AUROC of telling held-out texts from others by the summed activation of the k neurons (0.5 is "
        "chance). By score, by the scorer strawman (mean activation on the topic's own texts), and by random neurons of like "
        "support and decoder norm (mean and range of 5 draws); 'rule' is the selection that steering uses by default, where it "
        "chooses any neuron.",
        curves,
        say_curves,
        _draw_curves,
    ),
    "figure_11": Exhibit(
        "Share of tokens, every topic",
        "As in figure 4, by score: share of held-out texts' tokens on which one of the k best neurons fires, minus that of "
        "everyday texts.",
        curves_by_topic,
        say_curves_by_topic,
        _draw_curves_by_topic,
    ),
    "figure_12": Exhibit(
        "AUROC, every topic",
        f"Telling a topic's held-out texts from everyday texts, and from the other topics' held-out texts, by the summed "
        f"activation of the {BEST} best neurons. AUROC and 95 % interval; for random neurons the mean of "
        f"{RANKINGS} draws and its 95 % interval. 0.5 is chance.",
        auroc_by_topic,
        say_auroc,
        _draw_auroc,
    ),
}
