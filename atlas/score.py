"""Score every neuron for a topic, and store the scores (method: section 3).

The arithmetic is in sql/: make_factors, pivot_factors, sum_distances and compute_scores for the distance score, and one
compute_<scorer> for each other scorer. The distances of the prompts to the topics are in distances.py; products.py sums
for many topics at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from atlas.checks import require_complete, require_scored
from atlas.distances import distance_matrix, error_of_power, make_distances, raise_distances
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.names import require_name
from atlas.products import columns_at_once, sum_distances
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
TOPICS_PER_SCAN = 8  # by a query, the columns of more leave the processor's cache; more are summed by atlas.products
TOPICS_PER_TRANSACTION = 64  # DuckDB keeps what a transaction has thrown away until it ends
ACTIVATION_NOISE = 1e-5  # share of an activation that 32-bit rounding moves it by, from one batch to another
MOST_POWER = 256  # 2 ** 256, and the squares of many, are still numbers


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
        if self.power > MOST_POWER:
            raise AtlasError(f"power {self.power} is above {MOST_POWER}, where distances overflow: give 1 or 2")
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

    TOPICS_PER_TRANSACTION at a time are kept whole or not at all; the same call goes on after the last that were.

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
        AtlasError: fewer than two neurons of an SAE can be scored, or all have the same score; or a new topic has a name
            that cannot be read.
    """
    for name in topics:
        if not isinstance(name, str):
            require_name("topic", name)
    keys, reference_hash, stored = _look(store, topics, sae_keys)
    for name in topics:
        if not stored[name]:  # names in older atlases stay as they are
            require_name("topic", name)
    changed = [name for name, texts in topics.items() if set(stored[name]) != set(texts.texts)]
    for name in changed:
        if stored[name] and not replace:
            raise StoreError(
                f"topic {name!r} has {len(stored[name])} other texts already: "
                "choose another name, or --replace to give it these texts and drop its scorings"
            )
    texts = {name: list(topics[name].texts) if name in changed else stored[name] for name in topics}
    vectors = _embed(embed, {name: texts[name] for name in changed})
    work = _Work(config, keys, reference_hash, texts, _gather(store, config, texts, changed, keys, probe), scan)
    names = list(topics)
    for start in range(0, len(names), TOPICS_PER_TRANSACTION):
        some = names[start : start + TOPICS_PER_TRANSACTION]
        with patient(), store.write() as session:  # embedding and running the model took long
            for name in some:
                if name in vectors and stored[name]:
                    _drop_topic(session, name)
            ids = _store_topics(session, {name: texts[name] for name in some}, vectors)
            _store_activations(session, ids, work.evidence)
            for chunk in _chunks(session, ids, work):
                _score_chunk(session, chunk, work)
            if bootstraps and config.scorer == "distance":
                _measure_stability(session, ids, work, bootstraps)
    with patient(), store.read() as session:
        found = session.ask("scorings_of_topics", names=list(topics), scorer=config.scorer)
    return {name: found.filter(pl.col("name") == name)["scoring_id"].to_list() for name in topics}


def _look(
    store: Store, topics: Iterable[str], sae_keys: Sequence[int] | None
) -> tuple[list[int], object, dict[str, list[str]]]:
    """The SAEs to score, the hash of the reference prompts, and the texts that each topic has already."""
    with store.read() as session:
        reference_hash = require_complete(session, store)["reference_hash"]
        known = session.ask("all_saes")["sae_key"].to_list()
        found = session.ask("texts_of_topics", names=list(topics))
    keys = list(sae_keys) if sae_keys is not None else known
    for key in keys:
        if key not in known:
            raise UnknownName("SAE key", key, known)
    stored: dict[str, list[str]] = {name: [] for name in topics}
    for name, text in found.select("name", "text").iter_rows():
        stored[name].append(text)
    return keys, reference_hash, stored


def _embed(embed: Callable[[Sequence[str]], pl.DataFrame], texts: Mapping[str, Sequence[str]]) -> dict[str, pl.Series]:
    """Topic -> the embeddings of its texts, from one call of the encoder, which sorts them by length itself."""
    place = {text: row for row, text in enumerate(dict.fromkeys(text for some in texts.values() for text in some))}
    if not place:
        return {}
    vectors = embed(list(place))["vector"]
    return {name: vectors.gather([place[text] for text in some]) for name, some in texts.items()}


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


def _store_topics(
    session: Session, texts: Mapping[str, Sequence[str]], vectors: Mapping[str, pl.Series]
) -> dict[str, int]:
    """Store the topics that are new, and the texts of those of which there are vectors; name -> topic_id of all."""
    known = dict(session.ask("topic_ids", names=list(texts)).iter_rows())
    first = int(session.value("next_topic_id"))
    new = {name: topic_id for topic_id, name in enumerate((n for n in texts if n not in known), start=first)}
    topics = {"topic_id": pl.Series(list(new.values()), dtype=pl.UInt32), "name": pl.Series(list(new), dtype=pl.String)}
    session.append("topics", pl.DataFrame(topics).with_columns(created_at=pl.lit(now())))
    ids = {name: int((known | new)[name]) for name in texts}
    rows = [
        pl.DataFrame({"text_id": pl.Series(range(len(own)), dtype=pl.UInt32), "text": texts[name], "vector": own})
        .with_columns(topic_id=pl.lit(ids[name], pl.UInt32))
        for name, own in vectors.items()
        if name in ids
    ]  # fmt: skip
    if rows:
        session.append("topic_texts", pl.concat(rows))
    return ids


def _store_activations(session: Session, ids: Mapping[str, int], evidence: _Evidence) -> None:
    for name in evidence.activations.keys() & ids.keys():
        n_tokens, rows = evidence.activations[name]
        counts = pl.DataFrame({"text_id": range(len(n_tokens)), "n_tokens": n_tokens})
        with session.frame("counts", counts):
            session.run("count_text_tokens", topic_id=ids[name])
        session.append("topic_activations", rows.with_columns(topic_id=pl.lit(ids[name], pl.UInt32)))


@dataclass(frozen=True)
class _Work:
    """What is to be scored, and how.

    Attributes:
        config: how.
        keys: the SAEs.
        reference_hash: of the reference prompts.
        texts: topic -> its texts.
        evidence: what the language model said.
        scan: runs the queries that read the activations.
    """

    config: ScoringConfig
    keys: Sequence[int]
    reference_hash: object
    texts: Mapping[str, Sequence[str]]
    evidence: _Evidence
    scan: Scan


def _chunks(session: Session, ids: Mapping[str, int], work: _Work) -> Iterator[dict[str, int]]:
    """Name -> topic_id, of as many topics at a time as one pass over the activations serves."""
    size = TOPICS_PER_SCAN
    if work.scan is scan_here and work.config.scorer == "distance":
        size = max(size, columns_at_once(session.ask("atlas_size").item(0, "prompts")))
    names = list(ids)
    for start in range(0, len(names), size):
        yield {name: ids[name] for name in names[start : start + size]}


def _score_chunk(session: Session, ids: Mapping[str, int], work: _Work) -> None:
    """Score topics (name -> id) against every SAE; where an equal scoring is there, it becomes the current one."""
    todo = {key: _without_scoring(session, ids, key, work) for key in work.keys}
    fresh = [topic_id for topic_id in ids.values() if any(topic_id in some.values() for some in todo.values())]
    many = work.scan is scan_here and len(fresh) > TOPICS_PER_SCAN
    distances = None
    if fresh and work.config.scorer == "distance":
        if many:
            distances = distance_matrix(session, fresh)
        else:
            make_distances(session, fresh)
    for key, some in todo.items():
        if some:
            columns = None if distances is None else distances[:, [fresh.index(i) for i in some.values()]]
            _compute(session, some, key, work, columns)
            _store_scores(session, some, key, work)


def _without_scoring(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work) -> dict[str, int]:
    """The topics without an equal scoring over today's prompts; those of the others become the current ones."""
    settings = {"sae_key": sae_key, "reference_hash": work.reference_hash, **work.config.columns()}
    found = session.ask("same_scorings", topic_ids=list(ids.values()), **settings)
    _make_current(session, found["topic_id"].to_list(), sae_key, work.config, found["scoring_id"].to_list())
    have = set(found["topic_id"])
    return {name: topic_id for name, topic_id in ids.items() if topic_id not in have}


def _make_current(
    session: Session, topic_ids: Sequence[int], sae_key: int, config: ScoringConfig, scoring_ids: Sequence[int]
) -> None:
    session.run(
        "make_current",
        topic_ids=list(topic_ids),
        sae_key=sae_key,
        scorer=config.scorer,
        scoring_ids=list(scoring_ids),
    )


def _compute(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, distances: np.ndarray | None) -> None:
    """The temporary table `computed` of an SAE and several topics (name -> id), in one pass over its activations.

    Args:
        distances: of the prompts to the topics [prompt, topic]; None where the temporary table `distances` has them.
    """
    config, evidence = work.config, work.evidence
    settings = {"sae_key": sae_key, "summary": config.summary, "min_support": config.min_support}
    with session.frame("wanted", _topic_frame(ids.values())):
        if config.scorer == "distance":
            _sum_distances(session, ids, sae_key, work, distances)
            session.run("compute_scores", **settings)
        elif config.scorer == "output":
            rows = [(ids[name], neuron) for name in ids for neuron in evidence.candidates[name, sae_key]]
            frame = pl.DataFrame(rows, schema={"topic_id": pl.UInt32, "neuron": pl.UInt32}, orient="row")
            with session.frame("candidates", frame), session.frame("outputs", evidence.outputs[sae_key]):
                session.run("compute_output")
        elif config.scorer == "contrast":
            work.scan(session, "compute_contrast", **settings)
        else:
            session.run("compute_strawman", **settings)
    _check_scores(session, {topic_id: name for name, topic_id in ids.items()}, config)


def _sum_distances(
    session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, distances: np.ndarray | None
) -> None:
    """The temporary table `sums`: by a query for few topics, by matrix products for many."""
    config, summary = work.config, work.config.summary
    if distances is not None:
        powers = raise_distances(distances, config.distance, config.power)
        sum_distances(session, powers, list(ids.values()), sae_key=sae_key, summary=summary)
    else:
        session.run("make_factors", sae_key=sae_key, summary=summary, distance=config.distance, power=config.power)
        session.run("pivot_factors")
        work.scan(session, "sum_distances", sae_key=sae_key, summary=summary)


def _check_scores(session: Session, names: Mapping[int, str], config: ScoringConfig) -> None:
    """Raise AtlasError unless the scores in `computed` are finite numbers that differ by more than rounding."""
    for row in session.ask("score_ranges").to_dicts():
        topic, eligible = f"topic {names[row['topic_id']]!r}", row["eligible"]
        if not row["finite"]:
            raise AtlasError(
                f"{topic}: its {config.scorer} scores are not finite numbers, so the activations in the atlas are not: "
                "build it again, with --dtype bfloat16 or float32"
            )
        if config.scorer == "output":  # what a neuron writes is its own score, whatever the others write
            continue
        fired = f"{eligible} neurons fired on {config.min_support} or more prompts"
        if eligible < 2:
            raise AtlasError(
                f"{topic}: {fired}, so scores cannot be told apart: lower --min-support, or add prompts to the atlas"
            )
        if row["highest"] - row["lowest"] <= resolution(config, row["highest"]):
            raise AtlasError(
                f"{topic}: {fired} and all are equal, so scores cannot be told apart: build the atlas of prompts that "
                "differ more in what they are about"
            )


def resolution(config: ScoringConfig, value: float) -> float:
    """What two neurons must differ by, in what their scores are made of, for it to be more than rounding.

    g is a mean of distance ** power, so that an error of every distance moves it by at most that of the largest.

    Args:
        config: how they were scored.
        value: the highest there is.
    """
    if config.scorer == "distance":
        return error_of_power(value, config.distance, config.power)
    return ACTIVATION_NOISE * abs(value)


def _store_scores(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work) -> None:
    """Store what `computed` holds, as the current scorings."""
    config, topic_ids = work.config, list(ids.values())
    nulls: dict[int, int | None] = {}
    if config.scorer == "distance":
        settings = {name: value for name, value in config.columns().items() if name not in ("scorer", "candidates")}
        for count in {len(work.texts[name]) for name in ids}:
            nulls[count] = ensure_null(
                session, sae_key, texts=count, reference_hash=work.reference_hash, scan=work.scan, **settings
            )
    first = session.value("next_scoring_id")
    highest = dict(session.ask("score_ranges").select("topic_id", "highest").iter_rows())
    numbered = _topic_frame(topic_ids).with_columns(
        scoring_id=pl.Series(range(first, first + len(ids)), dtype=pl.UInt32),
        null_id=pl.Series([nulls.get(len(work.texts[name])) for name in ids], dtype=pl.UInt32),
        noise=pl.Series([resolution(config, highest[topic_id]) for topic_id in topic_ids], dtype=pl.Float64),
    )
    _make_current(session, topic_ids, sae_key, config, [])
    session.append(
        "scorings",
        numbered.drop("null_id", "noise").with_columns(
            sae_key=pl.lit(sae_key, pl.UInt32),
            **{name: pl.lit(value) for name, value in config.columns().items()},
            reference_hash=pl.lit(work.reference_hash),
            is_current=pl.lit(True),
            created_at=pl.lit(now()),
        ),
    )
    with session.frame("numbered", numbered):
        session.run("store_scores")


def _measure_stability(session: Session, ids: Mapping[str, int], work: _Work, bootstraps: int) -> None:
    """Measure and store how well the current rankings of the topics hold."""
    for name, topic_id in ids.items():
        current = require_scored(session, name)
        make_distances(session, [topic_id])
        mine = [current[key] for key in work.keys]
        measure_stability(session, mine, bootstraps=bootstraps, topic_ids=[topic_id] * len(mine), scan=work.scan)


def _topic_frame(ids: Iterable[int]) -> pl.DataFrame:
    return pl.DataFrame({"topic_id": pl.Series(list(ids), dtype=pl.UInt32)})
