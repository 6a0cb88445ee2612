"""Score every neuron for a topic, and store the scores (method: section 3).

The arithmetic is in sql/: make_factors, pivot_factors, sum_distances and compute_scores for the distance score, and one
compute_<scorer> for each other scorer. The distances of the prompts to the topics are in distances.py; products.py sums
for many topics at once. Scorer centroid takes the topics' mean embeddings from centroids.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from atlas.errors import UnknownName
from atlas.meaning.neuron_vectors import add_neuron_vectors, lacks_neuron_vectors
from atlas.scoring.centroids import closed_null, topic_means
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
    known = session.ask("all_saes")["sae_key"].to_list()
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
            for name in some:
                if name in work.vectors and work.texts.stored[name]:
                    drop_topic(session, name)
            ids = store_topics(session, {name: work.texts.wanted[name] for name in some}, work.vectors)
            store_activations(session, ids, work.evidence)
            for chunk in _chunks(session, ids, work):
                _score_chunk(session, chunk, work)
            if bootstraps and work.config.scorer == "distance":
                _measure_stability(session, ids, work, bootstraps)
            found = session.ask("scorings_of_topics", names=some, scorer=work.config.scorer)
        scoring_ids |= {name: found.filter(pl.col("name") == name)["scoring_id"].to_list() for name in some}
    return scoring_ids


def _chunks(session: Session, ids: Mapping[str, int], work: _Work) -> Iterator[dict[str, int]]:
    """Name -> topic_id, of as many topics at a time as one pass over the activations serves."""
    size = TOPICS_PER_SCAN
    if len(ids) > size and work.scan is scan_here and work.config.scorer == "distance":
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
            ranges = _compute(session, some, key, work, columns)
            _store_scores(session, some, key, work, ranges)


def _without_scoring(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work) -> dict[str, int]:
    """The topics without an equal scoring over today's prompts; those of the others become the current ones."""
    settings = {"sae_key": sae_key, "reference_hash": work.reference_hash, **work.config.columns()}
    found = session.ask("same_scorings", topic_ids=list(ids.values()), **settings)
    if found.height:
        make_current(session, found["topic_id"].to_list(), sae_key, work.config, found["scoring_id"].to_list())
    have = set(found["topic_id"])
    return {name: topic_id for name, topic_id in ids.items() if topic_id not in have}


def _compute(
    session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, distances: np.ndarray | None
) -> pl.DataFrame:
    """Make the temporary table `computed` of an SAE and several topics (name -> id), in one pass over its activations.

    Args:
        distances: of the prompts to the topics [prompt, topic]; None where the temporary table `distances` has them.

    Returns:
        The rows of sql/scoring/score_ranges.sql.
    """
    config, evidence = work.config, work.evidence
    settings = {"sae_key": sae_key, "summary": config.summary, "min_support": config.min_support}
    with session.frame("wanted", topic_frame(ids.values())):
        if config.scorer == "distance":
            _sum_distances(session, ids, sae_key, work, distances)
            session.run("compute_scores", **settings)
        elif config.scorer == "centroid":
            with session.frame("means", topic_means(session, list(ids.values()))):
                session.run("compute_centroid", sae_key=sae_key, min_support=config.min_support)
        elif config.scorer == "output":
            rows = [(ids[name], neuron) for name in ids for neuron in evidence.candidates[name, sae_key]]
            frame = pl.DataFrame(rows, schema={"topic_id": pl.UInt32, "neuron": pl.UInt32}, orient="row")
            with session.frame("candidates", frame), session.frame("outputs", evidence.outputs[sae_key]):
                session.run("compute_output")
        elif config.scorer == "contrast":
            work.scan(session, "compute_contrast", **settings)
        else:
            session.run("compute_strawman", **settings)
    ranges = session.ask("score_ranges")
    check_scores(ranges, {topic_id: name for name, topic_id in ids.items()}, config)
    return ranges


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


def _store_scores(session: Session, ids: Mapping[str, int], sae_key: int, work: _Work, ranges: pl.DataFrame) -> None:
    """Store what `computed` holds, as the current scorings; `ranges` as `_compute` gives them."""
    config, topic_ids = work.config, list(ids.values())
    nulls: dict[int, int | None] = {}
    if config.scorer == "distance":
        settings = {name: value for name, value in config.columns().items() if name not in ("scorer", "candidates")}
        for count in {len(work.texts.wanted[name]) for name in ids}:
            nulls[count] = ensure_null(
                session, sae_key, texts=count, reference_hash=work.reference_hash, scan=work.scan, **settings
            )
    first = session.next_id("scoring_id")
    highest = dict(ranges.select("topic_id", "highest").iter_rows())
    numbered = topic_frame(topic_ids).with_columns(
        scoring_id=pl.Series(range(first, first + len(ids)), dtype=pl.UInt32),
        null_id=pl.Series([nulls.get(len(work.texts.wanted[name])) for name in ids], dtype=pl.UInt32),
        noise=pl.Series([resolution(config, highest[topic_id]) for topic_id in topic_ids], dtype=pl.Float64),
        texts=pl.Series([len(work.texts.wanted[name]) for name in ids], dtype=pl.Float64),
    )
    make_current(session, topic_ids, sae_key, config, [])
    session.append(
        "scorings",
        numbered.drop("null_id", "noise", "texts").with_columns(
            sae_key=pl.lit(sae_key, pl.UInt32),
            **{name: pl.lit(value) for name, value in config.columns().items()},
            reference_hash=pl.lit(work.reference_hash),
            is_current=pl.lit(True),
            created_at=pl.lit(now()),
        ),
    )
    closed = closed_null(session, sae_key, config.min_support if config.scorer == "centroid" else None)
    with session.frame("numbered", numbered), session.frame("closed_null", closed):
        session.run("store_scores")


def _measure_stability(session: Session, ids: Mapping[str, int], work: _Work, bootstraps: int) -> None:
    """Measure and store how well the current rankings of the topics hold."""
    for name, topic_id in ids.items():
        current = require_scored(session, name)
        make_distances(session, [topic_id])
        mine = [current[key] for key in work.keys]
        measure_stability(session, mine, bootstraps=bootstraps, topic_ids=[topic_id] * len(mine), scan=work.scan)
