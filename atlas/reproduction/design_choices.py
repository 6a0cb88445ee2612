"""What the choices in the score do: summaries, distances, topic formats (method: section 6, point 6)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.stats import kendalltau

from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.scoring.distances import DISTANCES
from atlas.scoring.summaries import SUMMARIES
from atlas.texts.prompts import collect_texts

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


SHORT = 6  # texts of the smaller set of a topic
SHOWN = {"best": 0.0, "second best": 1.0, "median": 0.5, "last": -1.0}  # places in a ranking; see _place


def rank_agreement(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, topic, variant, other, tau: Kendall's tau between the scores under two variants."""
    atlas = inputs.copy
    texts = {name: collect_texts(inputs.topic_texts(name)) for name in inputs.topics}
    variants = [(summary, distance) for summary in SUMMARIES for distance in DISTANCES]
    scores: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for done, (summary, distance) in enumerate(variants):
        inputs.progress("scoring by other summaries and distances", done, len(variants))
        found = atlas.score_many(
            texts, summary=summary, distance=distance, null_topics=0, min_support=inputs.min_support
        )
        with atlas.store.read() as session:
            for topic, scoring_ids in found.items():
                for row, scoring_id in zip(inputs.saes, scoring_ids, strict=True):
                    frame = session.ask("steering_columns", sae_key=row["sae_key"], scoring_id=scoring_id)
                    scores.setdefault((topic, row["sae_key"]), {})[f"{summary}, {distance}"] = frame["score"].to_numpy()
    inputs.progress("scoring by other summaries and distances", len(variants), len(variants))
    rows = []
    for (topic, key), mine in scores.items():
        sae_id = next(row["sae_id"] for row in inputs.saes if row["sae_key"] == key)
        for a, b in combinations(mine, 2):
            known = ~np.isnan(mine[a]) & ~np.isnan(mine[b])
            rows.append((sae_id, topic, a, b, float(kendalltau(mine[a][known], mine[b][known]).statistic)))
    return pl.DataFrame(rows, schema=["sae_id", "topic", "variant", "other", "tau"], orient="row")


def weights_by_distance(inputs: ExhibitInputs) -> pl.DataFrame:
    """neuron, place, score, distance, weight: the prompts behind four neurons of the first SAE."""
    row = inputs.saes[0]
    scoring_id = inputs.scorings[inputs.topic][row["sae_key"]]
    with inputs.session() as session:
        columns = session.ask("steering_columns", sae_key=row["sae_key"], scoring_id=scoring_id)
    ranked = columns.filter(pl.col("score").is_not_null()).sort("score", "neuron", descending=[True, False])
    frames = []
    for name, where in SHOWN.items():
        chosen = ranked.row(_place(where, ranked.height), named=True)
        prompts = inputs.atlas.why(inputs.topic, chosen["neuron"], sae_id=row["sae_key"])
        label = f"{name}: neuron {chosen['neuron']}, score {chosen['score']:.2f}"
        frames.append(prompts.select(pl.lit(label).alias("neuron"), "prompt_id", "distance", "weight"))
    return pl.concat(frames)


def _place(where: float, ranked: int) -> int:
    return int(where) if where in (0.0, 1.0, -1.0) else int(where * ranked)


def score_distributions(inputs: ExhibitInputs) -> pl.DataFrame:
    """sae_id, topic, texts, neurons, q05, q25, q50, q75, q95: scores under a topic's own texts and under a smaller set."""
    short = {name: collect_texts(short_texts(inputs, name)) for name in inputs.topics}
    names = {f"{name} ({len(texts.texts)} texts)": name for name, texts in short.items()}
    settings: dict[str, Any] = {"min_support": inputs.min_support, "null_topics": 0}
    atlas = inputs.copy
    own = atlas.score_many({name: collect_texts(inputs.topic_texts(name)) for name in inputs.topics}, **settings)
    inputs.progress("scoring by fewer texts", 0, 0)
    # the encoder is the atlas's own: loaded once for all topics
    few = atlas.score_many({long: short[name] for long, name in names.items()}, encoder=inputs.encoder_name, **settings)
    rows = [
        (scoring_id, row["sae_id"], name, len(inputs.topic_texts(name)))
        for name, ids in own.items()
        for row, scoring_id in zip(inputs.saes, ids, strict=True)
    ] + [
        (scoring_id, row["sae_id"], names[long], len(short[names[long]].texts))
        for long, ids in few.items()
        for row, scoring_id in zip(inputs.saes, ids, strict=True)
    ]
    wanted = pl.DataFrame(rows, schema=["scoring_id", "sae_id", "topic", "texts"], orient="row")
    with atlas.store.read_file() as session, session.frame("wanted_scorings", wanted.select("scoring_id")):
        found = session.ask("score_quantiles")
    joined = wanted.join(found.with_columns(pl.col("scoring_id").cast(pl.Int64)), on="scoring_id")
    order = [row["sae_id"] for row in inputs.saes]
    return joined.drop("scoring_id").sort(pl.col("sae_id").cast(pl.Enum(order)), "topic", "texts")


def short_texts(inputs: ExhibitInputs, topic: str) -> list[str]:
    """A smaller set of alignment texts of a topic."""
    if inputs.texts.short.get(topic):
        return list(inputs.texts.short[topic])
    own = inputs.topic_texts(topic)
    if len(own) <= SHORT:
        raise NotAvailable(f"topic {topic!r} has {len(own)} texts, no more than the smaller set of {SHORT}")
    return own[:SHORT]


def topic_distances(inputs: ExhibitInputs) -> pl.DataFrame:
    """topic, other, pairs, distance: mean distance between their texts, of a topic with itself too."""
    with inputs.session() as session:
        ids = [int(session.value("topic_id", topic=name)) for name in inputs.topics]
        with session.frame("wanted", pl.DataFrame({"topic_id": ids})):
            return session.ask("topic_distances")


def say_agreement(frame: pl.DataFrame) -> str:
    """Mean over topics and pairs of variants, per SAE."""
    means = frame.group_by("sae_id", maintain_order=True).agg(
        pl.col("tau").mean().alias("mean"), pl.col("tau").min().alias("least")
    )
    return "average tau " + "; ".join(f"{m:.3f} (least {low:.3f}) for {sae}" for sae, m, low in means.iter_rows())


def say_weights(frame: pl.DataFrame) -> str:
    """Weighted mean distance per neuron."""
    means = frame.group_by("neuron", maintain_order=True).agg((pl.col("distance") * pl.col("weight")).sum())
    return "weighted mean distance: " + "; ".join(f"{name} {value:.3f}" for name, value in means.iter_rows())


def say_distributions(frame: pl.DataFrame) -> str:
    """The mean over topics of the median score, per SAE and number of texts."""
    means = frame.group_by("sae_id", "texts", maintain_order=True).agg(pl.col("q50").mean())
    return "mean median score: " + "; ".join(f"{sae}, {n} texts {value:.2f}" for sae, n, value in means.iter_rows())


def say_distances(frame: pl.DataFrame) -> str:
    """Means over topics and over pairs of topics."""
    same = pl.col("topic") == pl.col("other")
    parts = (("within a topic", frame.filter(same)), ("between topics", frame.filter(~same)))
    return ", ".join(f"{name} {mine['distance'].to_numpy().mean():.3f}" for name, mine in parts if mine.height)


def _draw_agreement(frame: pl.DataFrame) -> Picture:
    means = frame.group_by("sae_id", "variant", "other", maintain_order=True).agg(pl.col("tau").mean().alias("value"))
    return plots.matrix(means, row="variant", column="other", panel="sae_id", label="Kendall's tau, mean over topics")


def _draw_weights(frame: pl.DataFrame) -> Picture:
    return plots.scatter(
        frame, x="distance", y="weight", panel="neuron",
        labels=("distance of the prompt to the topic", "weight of the prompt"),
    )  # fmt: skip


def _draw_distributions(frame: pl.DataFrame) -> Picture:
    return plots.boxes(frame, row="topic", series="texts", panel="sae_id", label="score")


def _draw_distances(frame: pl.DataFrame) -> Picture:
    return plots.matrix(
        frame.rename({"distance": "value"}), row="topic", column="other", panel=None, label="mean distance of two texts"
    )


EXHIBITS = {
    "table_5": Exhibit(
        "Agreement of summaries and distances",
        "Kendall's tau between the rankings of the neurons under two variants of the score: what sums up a prompt's "
        "activations (mean, max, count) and how texts are compared (euclidean, cosine). Mean over topics.",
        rank_agreement,
        say_agreement,
        _draw_agreement,
        paper="average tau 0.741",
    ),
    "figure_9": Exhibit(
        "Activation against distance",
        "The reference prompts behind four neurons of the first SAE: how far each prompt is from the topic, and its share of "
        "the neuron's activation. A neuron scores high when its weight lies on near prompts.",
        weights_by_distance,
        say_weights,
        _draw_weights,
    ),
    "figure_10": Exhibit(
        "Distribution of scores",
        "Scores by topic, by SAE, and by the number of alignment texts (two different sets of texts). Box: quartiles and "
        "median; whiskers: 5 % and 95 %.",
        score_distributions,
        say_distributions,
        _draw_distributions,
    ),
    "topic_distances": Exhibit(
        "Distances within and between topics",
        "Mean Euclidean distance between the embeddings of two texts: of the same topic on the diagonal, of two topics "
        "elsewhere. A diagonal lower than its row is a topic that the encoder can tell apart.",
        topic_distances,
        say_distances,
        _draw_distances,
    ),
}
