"""Score every neuron for a topic, and store the scores (method: section 3).

The arithmetic is in sql/: make_factors, pivot_factors and compute_scores for the distance score, and one compute_<scorer>
for each other scorer. The distances of the prompts to the topics are in distances.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from atlas.checks import require_complete, require_scored
from atlas.distances import make_distances
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.prompts import TextSet
from atlas.scorers import SCORERS
from atlas.store import Scan, Session, Store, now, scan_here
from atlas.summaries import SUMMARIES
from atlas.uncertainty import ensure_null, measure_stability
from atlas.waiting import patient

DISTANCES = {
    "euclidean": "length of the difference of the embeddings",
    "cosine": "1 - cosine of the embeddings",
}
TOPICS_PER_SCAN = 8  # the columns of more leave the processor's cache: slower per topic, and more memory


class Probe(Protocol):
    """What a scorer that needs the language model asks of it."""

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id."""

    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """A frame with columns `neuron` and `output`."""


@dataclass(frozen=True)
class ScoringConfig:
    """What makes two scorings of a topic comparable.

    Attributes:
        summary: key of SUMMARIES.
        distance: key of DISTANCES.
        power: exponent of the distance; 2 as the paper's code has it, 1 as its equation prints it.
        min_support: neurons that fired on fewer prompts have no score.
        scorer: key of SCORERS.
        null_topics: random topics behind z, drawn once per number of texts; 0 leaves z out.
        candidates: scorer output: how many of the best neurons by distance are tried.
    """

    summary: str = "mean"
    distance: str = "euclidean"
    power: float = 2.0
    min_support: int = 20
    scorer: str = "distance"
    null_topics: int = 64
    candidates: int = 300

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise UnknownName("scorer", self.scorer, SCORERS)
        if self.summary not in SUMMARIES:
            raise UnknownName("summary", self.summary, SUMMARIES)
        if self.distance not in DISTANCES:
            raise UnknownName("distance", self.distance, DISTANCES)
        if not self.power > 0:
            raise AtlasError(f"power {self.power} is not positive: give 1 or 2")
        if self.min_support < 1:
            raise AtlasError(f"min_support {self.min_support} is below 1: give the least number of prompts, such as 20")
        if self.null_topics < 0 or self.null_topics == 1:
            raise AtlasError(f"null_topics {self.null_topics} gives no spread: give 2 or more, or 0 to leave z out")
        if self.candidates < 2:
            raise AtlasError(f"candidates {self.candidates} cannot be told apart: give 2 or more, such as 300")

    def columns(self) -> dict[str, Any]:
        """The columns of `scorings` that say how; null where the scorer does not use one."""
        uses = SCORERS[self.scorer].uses
        names = ("summary", "distance", "power", "min_support", "null_topics", "candidates")
        return {"scorer": self.scorer, **{name: getattr(self, name) if name in uses else None for name in names}}


def score_topics(
    store: Store,
    topics: Mapping[str, TextSet],
    *,
    embed: Callable[[Sequence[str]], pl.DataFrame],
    config: ScoringConfig = ScoringConfig(),
    sae_keys: Sequence[int] | None = None,
    replace: bool = False,
    probe: Probe | None = None,
    bootstraps: int = 0,
    scan: Scan = scan_here,
) -> dict[str, list[int]]:
    """Score topics against SAEs and make the scorings the current ones.

    Args:
        store: a finished atlas.
        topics: name -> alignment texts.
        embed: texts -> frame with a column `vector`; called only for topics whose texts are new.
        config: how to score.
        sae_keys: which SAEs; None for all.
        replace: give a topic other texts than it has, dropping its scorings.
        probe: the language model, for scorers that need it.
        bootstraps: bootstrap samples of the prompts to measure the rankings' stability by (scorer distance); 0 for none.
        scan: runs the queries that read the activations; DuckDB unless another engine is given.

    Returns:
        Topic name -> scoring ids, in the order of the SAEs. Scorings that were there already are not computed again.

    Raises:
        StoreError: the atlas is unfinished, or a topic has other texts and `replace` is off.
        AtlasError: fewer than two neurons of an SAE can be scored, or all have the same score.
    """
    with store.read() as session:
        reference_hash = require_complete(session, store)["reference_hash"]
        known = session.ask("all_saes")["sae_key"].to_list()
        keys = list(sae_keys) if sae_keys is not None else known
        for key in keys:
            if key not in known:
                raise UnknownName("SAE key", key, known)
        stored = {name: session.ask("topic_texts", topic=name)["text"].to_list() for name in topics}
    changed = [name for name, texts in topics.items() if set(stored[name]) != set(texts.texts)]
    for name in changed:
        if stored[name] and not replace:
            raise StoreError(
                f"topic {name!r} has {len(stored[name])} other texts already: "
                "choose another name, or --replace to give it these texts and drop its scorings"
            )
    texts = {name: list(topics[name].texts) if name in changed else stored[name] for name in topics}
    vectors = {name: embed(texts[name]) for name in changed}
    evidence = _gather(store, config, texts, changed, keys, probe)
    with patient(), store.write() as session:  # embedding and running the model took long
        for name in changed:
            if stored[name]:
                _drop_topic(session, name)
            _store_topic(session, name, texts[name], vectors[name])
        for name, (n_tokens, rows) in evidence.activations.items():
            topic_id = session.value("topic_id", topic=name)
            counts = pl.DataFrame({"text_id": range(len(n_tokens)), "n_tokens": n_tokens})
            with session.frame("counts", counts):
                session.run("count_text_tokens", topic_id=topic_id)
            session.append("topic_activations", rows.with_columns(topic_id=pl.lit(topic_id, pl.UInt32)))
        names = list(topics)
        for start in range(0, len(names), TOPICS_PER_SCAN):
            some = names[start : start + TOPICS_PER_SCAN]
            todo = {
                key: [n for n in some if not _make_current(session, n, key, config, reference_hash)] for key in keys
            }
            ids = {name: session.value("topic_id", topic=name) for name in some}
            fresh = [ids[name] for name in some if bootstraps or any(name in t for t in todo.values())]
            if fresh and config.scorer == "distance":
                make_distances(session, fresh)
            for key, chosen in todo.items():
                if chosen:
                    numbers = {name: ids[name] for name in chosen}
                    _compute(session, numbers, key, config, evidence, scan)
                    _store_scores(session, numbers, key, config, texts, reference_hash, scan)
            if bootstraps and config.scorer == "distance":
                for name in some:
                    current = require_scored(session, name)
                    mine = [current[key] for key in keys]
                    topic_ids = [ids[name]] * len(mine)
                    measure_stability(session, mine, bootstraps=bootstraps, topic_ids=topic_ids, scan=scan)
        found = {name: session.ask("current_scorings", topic=name, scorer=config.scorer) for name in topics}
        return {name: frame["scoring_id"].to_list() for name, frame in found.items()}


@dataclass(frozen=True)
class _Evidence:
    """What the language model said, before the store is opened for writing.

    Attributes:
        activations: topic -> tokens per text and rows of `topic_activations`, for topics that lack them.
        candidates: (topic, sae_key) -> neurons whose output is scored.
        outputs: sae_key -> frame of `neuron` and `output`.
    """

    activations: dict[str, tuple[list[int], pl.DataFrame]]
    candidates: dict[tuple[str, int], list[int]]
    outputs: dict[int, pl.DataFrame]


def _gather(
    store: Store,
    config: ScoringConfig,
    texts: Mapping[str, Sequence[str]],
    changed: Sequence[str],
    keys: Sequence[int],
    probe: Probe | None,
) -> _Evidence:
    """Run the model where the scorer needs it and the store does not hold the result yet."""
    found = _Evidence({}, {}, {})
    needs = SCORERS[config.scorer].needs
    if needs == "activations":
        with store.read() as session:
            have = {name: set(session.ask("topic_saes", topic=name)["sae_key"]) for name in texts}
        for name in texts:
            missing = [key for key in keys if name in changed or key not in have[name]]
            if missing:
                found.activations[name] = _require(probe, config).topic_activations(texts[name], missing)
    elif needs == "output":
        with store.read() as session:
            for name in texts:
                current = {} if name in changed else require_scored(session, name)
                for key in keys:
                    if key not in current:
                        raise StoreError(
                            f"topic {name!r} has no distance scores for SAE {key}, whose best neurons scorer output tries: "
                            "run `atlas score` without --scorer first"
                        )
                    best = session.ask("best_neurons", scoring_id=current[key], count=config.candidates)
                    found.candidates[name, key] = best["neuron"].to_list()
            known = {key: session.ask("known_outputs", sae_key=key) for key in keys}
        for key in keys:
            wanted = {neuron for (_, k), neurons in found.candidates.items() if k == key for neuron in neurons}
            missing = sorted(wanted - set(known[key]["neuron"]))
            fresh = _require(probe, config).output_scores(key, missing) if missing else known[key].clear()
            found.outputs[key] = pl.concat([known[key], fresh.select(known[key].columns).cast(known[key].schema)])
    return found


def _require(probe: Probe | None, config: ScoringConfig) -> Probe:
    assert probe is not None, f"scorer {config.scorer} needs a probe"
    return probe


def _drop_topic(session: Session, name: str) -> None:
    """Drop a topic's texts, and what was computed from them."""
    for query in ("drop_topic_scores", "drop_topic_scorings", "drop_topic_activations", "drop_topic_texts"):
        session.run(query, topic=name)


def _store_topic(session: Session, name: str, texts: Sequence[str], vectors: pl.DataFrame) -> None:
    session.run("add_topic", topic=name, created_at=now())
    topic_id = session.value("topic_id", topic=name)
    rows = pl.DataFrame({"text_id": pl.Series(range(len(texts)), dtype=pl.UInt32), "text": texts})
    session.append("topic_texts", rows.with_columns(vectors["vector"], topic_id=pl.lit(topic_id, pl.UInt32)))


def _make_current(session: Session, name: str, sae_key: int, config: ScoringConfig, reference_hash: object) -> bool:
    """Make an equal scoring over today's prompts the current one; whether there was one."""
    found = session.value(
        "same_scoring", topic=name, sae_key=sae_key, reference_hash=reference_hash, **config.columns()
    )
    if found is not None:
        session.run("make_current", topic=name, sae_key=sae_key, scorer=config.scorer, scoring_id=found)
    return found is not None


def _compute(
    session: Session, ids: Mapping[str, int], sae_key: int, config: ScoringConfig, evidence: _Evidence, scan: Scan
) -> None:
    """The temporary table `computed` of an SAE and several topics (name -> id), in one scan of its activations."""
    settings = {"sae_key": sae_key, "summary": config.summary, "min_support": config.min_support}
    with session.frame("wanted", _topic_frame(ids.values())):
        if config.scorer == "distance":
            session.run(
                "make_factors", sae_key=sae_key, distance=config.distance, power=config.power, summary=config.summary
            )
            session.run("pivot_factors")
            scan(session, "compute_scores", **settings)
        elif config.scorer == "output":
            rows = [(ids[name], neuron) for name in ids for neuron in evidence.candidates[name, sae_key]]
            frame = pl.DataFrame(rows, schema={"topic_id": pl.UInt32, "neuron": pl.UInt32}, orient="row")
            with session.frame("candidates", frame), session.frame("outputs", evidence.outputs[sae_key]):
                session.run("compute_output")
        elif config.scorer == "contrast":
            scan(session, "compute_contrast", **settings)
        else:
            session.run("compute_strawman", **settings)
    for row in session.ask("check_scores").to_dicts():
        name = next(name for name, topic_id in ids.items() if topic_id == row["topic_id"])
        raise AtlasError(
            f"topic {name!r}: {row['eligible']} neurons fired on {config.min_support} or more prompts"
            + (" and all are equal" if row["eligible"] > 1 else "")
            + ", so scores cannot be told apart: lower --min-support, or add prompts to the atlas"
        )


def _store_scores(
    session: Session,
    ids: Mapping[str, int],
    sae_key: int,
    config: ScoringConfig,
    texts: Mapping[str, Sequence[str]],
    reference_hash: object,
    scan: Scan,
) -> None:
    """Store what `computed` holds, as the current scorings."""
    nulls = {}
    if config.scorer == "distance":
        settings = {name: value for name, value in config.columns().items() if name not in ("scorer", "candidates")}
        for count in {len(texts[name]) for name in ids}:
            nulls[count] = ensure_null(
                session, sae_key, texts=count, reference_hash=reference_hash, scan=scan, **settings
            )
    first = session.value("next_scoring_id")
    numbered = _topic_frame(ids.values()).with_columns(
        scoring_id=pl.Series(range(first, first + len(ids)), dtype=pl.UInt32),
        null_id=pl.Series([nulls.get(len(texts[name])) for name in ids], dtype=pl.UInt32),
        sae_key=pl.lit(sae_key, pl.UInt32),
        **{name: pl.lit(value) for name, value in config.columns().items()},
        reference_hash=pl.lit(reference_hash),
        is_current=pl.lit(True),
        created_at=pl.lit(now()),
    )
    for name, scoring_id in zip(ids, numbered["scoring_id"], strict=True):
        session.run("make_current", topic=name, sae_key=sae_key, scorer=config.scorer, scoring_id=scoring_id)
    session.append("scorings", numbered.drop("null_id"))
    with session.frame("numbered", numbered):
        session.run("store_scores")


def _topic_frame(ids: Iterable[int]) -> pl.DataFrame:
    return pl.DataFrame({"topic_id": pl.Series(list(ids), dtype=pl.UInt32)})
