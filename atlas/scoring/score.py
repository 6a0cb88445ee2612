"""Score every neuron for a topic, and store the scores (method: section 3).

The arithmetic is in sql/: make_factors, pivot_factors, sum_distances and compute_scores for the distance score, and one
compute_<scorer> for each other scorer. The distances of the prompts to the topics are in distances.py; products.py sums
for many topics at once. Scorer centroid is in centroids.py: it reads no activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from atlas.errors import StoreError, UnknownName
from atlas.meaning.neuron_vectors import add_neuron_vectors, lacks_neuron_vectors
from atlas.scoring.centroids import score_by_vectors, topic_means
from atlas.scoring.config import ScoringConfig
from atlas.scoring.distances import distance_matrix, make_distances, raise_distances
from atlas.scoring.evidence import Evidence, Probe, gather_evidence
from atlas.scoring.products import columns_at_once, sum_distances
from atlas.scoring.random_topics import ensure_null
from atlas.scoring.resolution import check_scores, resolution
from atlas.scoring.scored import require_scored
from atlas.scoring.stability import measure_stability
from atlas.scoring.topics import (
    Embed,
    TopicTexts,
    drop_topic,
    embed_changed,
    known_topics,
    make_current,
    settle_texts,
    store_activations,
    store_topics,
    stored_texts,
    topic_frame,
)
from atlas.store.file import Store
from atlas.store.session import Asks, Scan, Session, now, scan_here
from atlas.store.state import require_complete
from atlas.store.waiting import patient
from atlas.texts.prompts import TextSet

TOPICS_PER_SCAN = (
    8  # by a query, the columns of more leave the processor's cache; more are summed by atlas.scoring.products
)
TOPICS_PER_TRANSACTION = 64  # DuckDB keeps what a transaction has thrown away until it ends


def score_topics(
    store: Store,
    topics: Mapping[str, TextSet],
    *,
    embed: Embed,
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
    with store.read() as session:
        keys, reference_hash = _settle_saes(session, store, sae_keys)
        texts = settle_texts(session, topics, replace=replace)
        lacking = config.scorer == "centroid" and lacks_neuron_vectors(session)
    if lacking:
        add_neuron_vectors(store)
    vectors = embed_changed(embed, texts)
    evidence = gather_evidence(store, config, texts.wanted, texts.changed, keys, probe)
    work = _Work(config, keys, reference_hash, texts, vectors, evidence, scan)
    return _score(store, work, bootstraps=bootstraps)


def score_stored_topics(
    store: Store, topics: Sequence[str], *, config: ScoringConfig, sae_keys: Sequence[int], probe: Probe
) -> dict[str, list[int]]:
    """Score topics by the texts that the atlas has of them, so that nothing is embedded; else as `score_topics`."""
    with store.read() as session:
        keys, reference_hash = _settle_saes(session, store, sae_keys)
        stored = stored_texts(session, topics)
        lacking = config.scorer == "centroid" and lacks_neuron_vectors(session)
    if lacking:
        add_neuron_vectors(store)
    evidence = gather_evidence(store, config, stored, [], keys, probe)
    return _score(store, _Work(config, keys, reference_hash, TopicTexts(stored, stored), {}, evidence, scan_here))


def _settle_saes(session: Asks, store: Store, sae_keys: Sequence[int] | None) -> tuple[list[int], object]:
    """The SAEs to score, and the hash of the reference prompts."""
    reference_hash = require_complete(session, store)["reference_hash"]
    known = [row["sae_key"] for row in session.rows("all_saes")]
    keys = list(sae_keys) if sae_keys is not None else known
    for key in keys:
        if key not in known:
            raise UnknownName("SAE key", key, known)
    return keys, reference_hash


@dataclass(frozen=True)
class _Work:
    """What is to be scored, and how.

    Attributes:
        config: how.
        keys: the SAEs.
        reference_hash: of the reference prompts.
        texts: of the topics.
        vectors: topic -> the embeddings of its texts, of topics whose texts changed.
        evidence: what the language model said.
        scan: runs the queries that read the activations.
    """

    config: ScoringConfig
    keys: Sequence[int]
    reference_hash: object
    texts: TopicTexts
    vectors: Mapping[str, pl.Series]
    evidence: Evidence
    scan: Scan


def _score(store: Store, work: _Work, *, bootstraps: int = 0) -> dict[str, list[int]]:
    """Store topics and their scorings; topic -> scoring ids, in the order of the SAEs."""
    names = list(work.texts.wanted)
    scoring_ids: dict[str, list[int]] = {}
    for start in range(0, len(names), TOPICS_PER_TRANSACTION):
        some = names[start : start + TOPICS_PER_TRANSACTION]
        with patient(), store.write() as session:  # embedding and running the model took long
            known = known_topics(session, some)
            _drop_changed(session, known, work)
            ids = store_topics(session, {name: work.texts.wanted[name] for name in some}, work.vectors, known)
            store_activations(session, ids, work.evidence)
            for chunk in _chunks(session, ids, work):
                _score_chunk(session, chunk, work)
            if bootstraps and work.config.scorer == "distance":
                _measure_stability(session, ids, work, bootstraps)
            found = session.rows("scorings_of_topics", names=some, scorer=work.config.scorer)
        for name in some:
            scoring_ids[name] = [row["scoring_id"] for row in found if row["name"] == name]
    return scoring_ids


def _drop_changed(session: Session, known: Iterable[str], work: _Work) -> None:
    """Drop the texts of the topics, of those there are, that get others, and what was computed from them.

    Raises:
        StoreError: a topic that was new has been scored since by another process.
    """
    changed = [name for name in known if name in work.vectors]
    meanwhile = stored_texts(session, [name for name in changed if not work.texts.stored[name]]) if changed else {}
    for name in changed:
        if meanwhile.get(name):
            raise StoreError(f"topic {name!r} was scored by another process meanwhile: run the same command again")
        drop_topic(session, name)


def _chunks(session: Session, ids: Mapping[str, int], work: _Work) -> Iterator[dict[str, int]]:
    """Name -> topic_id, of as many topics at a time as one pass over the activations serves."""
    size = TOPICS_PER_SCAN
    if len(ids) > size and work.scan is scan_here and work.config.scorer == "distance":
        size = max(size, columns_at_once(session.value("prompt_count")))
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
            computed = _compute(session, some, key, work, columns)
            check_scores(computed.ranges, {topic_id: name for name, topic_id in some.items()}, work.config)
            _store_scores(session, some, key, work, computed)


def _without_scoring(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work) -> dict[str, int]:
    """The topics without an equal scoring over today's prompts; those of the others become the current ones."""
    scored = {
        name: topic_id for name, topic_id in ids.items() if name not in work.vectors
    }  # of other texts are none left
    if not scored:
        return dict(ids)
    settings = {"sae_key": sae_key, "reference_hash": work.reference_hash, **work.config.columns()}
    found = session.rows("same_scorings", topic_ids=list(scored.values()), **settings)
    have = [row["topic_id"] for row in found]
    if found:
        make_current(session, have, sae_key, work.config, [row["scoring_id"] for row in found])
    return {name: topic_id for name, topic_id in ids.items() if topic_id not in have}


@dataclass(frozen=True)
class _Computed:
    """The scores of an SAE's neurons for some topics.

    Attributes:
        ranges: the rows of sql/scoring/score_ranges.sql.
        scores: a row per (topic, neuron); None where the temporary table `computed` holds them.
    """

    ranges: list[dict[str, Any]]
    scores: pl.DataFrame | None = None


def _compute(
    session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, distances: np.ndarray | None
) -> _Computed:
    """Score the neurons of an SAE for several topics (name -> id), in one pass over its activations or its vectors.

    Args:
        distances: of the prompts to the topics [prompt, topic]; None where the temporary table `distances` has them.
    """
    config, evidence = work.config, work.evidence
    if config.scorer == "centroid":
        return _Computed(*score_by_vectors(session, topic_means(session, list(ids.values())), sae_key, config))
    settings = {"sae_key": sae_key, "summary": config.summary, "min_support": config.min_support}
    with session.frame("wanted", topic_frame(ids.values())):
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
    return _Computed(session.rows("score_ranges"))


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


def _store_scores(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, computed: _Computed) -> None:
    """Store scores as the current scorings of topics (name -> id)."""
    config = work.config
    first = session.next_id("scoring_id")
    scorings = pl.DataFrame(
        {
            "topic_id": pl.Series(list(ids.values()), dtype=pl.UInt32),
            "scoring_id": pl.Series(range(first, first + len(ids)), dtype=pl.UInt32),
        }
    )
    if scored := [topic_id for name, topic_id in ids.items() if name not in work.vectors]:
        make_current(session, scored, sae_key, config, [])
    session.append(
        "scorings",
        scorings.with_columns(
            sae_key=pl.lit(sae_key, pl.UInt32),
            **{name: pl.lit(value) for name, value in config.columns().items()},
            reference_hash=pl.lit(work.reference_hash),
            is_current=pl.lit(True),
            created_at=pl.lit(now()),
        ),
    )
    if computed.scores is not None:
        session.append("scores", computed.scores.join(scorings, on="topic_id", maintain_order="left").drop("topic_id"))
        return
    highest = {row["topic_id"]: row["highest"] for row in computed.ranges}
    numbered = scorings.with_columns(
        null_id=pl.Series(_nulls(session, ids, sae_key, work), dtype=pl.UInt32),
        noise=pl.Series([resolution(config, highest[topic_id]) for topic_id in ids.values()], dtype=pl.Float64),
    )
    with session.frame("numbered", numbered):
        session.run("store_scores")


def _nulls(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work) -> list[int | None]:
    """For each topic the random topics that it is compared with; None where there are none."""
    if work.config.scorer != "distance":
        return [None] * len(ids)
    settings = {name: value for name, value in work.config.columns().items() if name not in ("scorer", "candidates")}
    counts = [len(work.texts.wanted[name]) for name in ids]
    known = {
        count: ensure_null(
            session, sae_key, texts=count, reference_hash=work.reference_hash, scan=work.scan, **settings
        )
        for count in set(counts)
    }
    return [known[count] for count in counts]


def _measure_stability(session: Session, ids: Mapping[str, int], work: _Work, bootstraps: int) -> None:
    """Measure and store how well the current rankings of the topics hold."""
    for name, topic_id in ids.items():
        current = require_scored(session, name)
        make_distances(session, [topic_id])
        mine = [current[key] for key in work.keys]
        measure_stability(session, mine, bootstraps=bootstraps, topic_ids=[topic_id] * len(mine), scan=work.scan)
