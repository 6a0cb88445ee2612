"""Score every neuron for a topic: distances and weighted sums in the database (method: equations 1 and 2).

The arithmetic is in sql/: make_distances, make_factors, pivot_factors, compute_scores, store_scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import polars as pl

from atlas.checks import require_complete
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.prompts import TextSet
from atlas.store import Session, Store, now
from atlas.summaries import SUMMARIES

DISTANCES = {
    "euclidean": "length of the difference of the embeddings",
    "cosine": "1 - cosine of the embeddings",
}
TOPICS_PER_SCAN = 64


@dataclass(frozen=True)
class ScoringConfig:
    """What makes two scorings of a topic comparable.

    Attributes:
        summary: key of SUMMARIES.
        distance: key of DISTANCES.
        power: exponent of the distance; 2 as the paper's code has it, 1 as its equation prints it.
        min_support: neurons that fired on fewer prompts have no score.
        scorer: only "distance" so far.
    """

    summary: str = "mean"
    distance: str = "euclidean"
    power: float = 2.0
    min_support: int = 20
    scorer: str = field(default="distance")

    def __post_init__(self) -> None:
        if self.summary not in SUMMARIES:
            raise UnknownName("summary", self.summary, SUMMARIES)
        if self.distance not in DISTANCES:
            raise UnknownName("distance", self.distance, DISTANCES)
        if not self.power > 0:
            raise AtlasError(f"power {self.power} is not positive: give 1 or 2")
        if self.min_support < 1:
            raise AtlasError(f"min_support {self.min_support} is below 1: give the least number of prompts, such as 20")


def score_topics(
    store: Store,
    topics: Mapping[str, TextSet],
    *,
    embed: Callable[[Sequence[str]], pl.DataFrame],
    config: ScoringConfig = ScoringConfig(),
    sae_keys: Sequence[int] | None = None,
    replace: bool = False,
) -> dict[str, list[int]]:
    """Score topics against SAEs and make the scorings the current ones.

    Args:
        store: a finished atlas.
        topics: name -> alignment texts.
        embed: texts -> frame with a column `vector`; called only for topics whose texts are new.
        config: how to score.
        sae_keys: which SAEs; None for all.
        replace: give a topic other texts than it has, dropping its scorings.

    Returns:
        Topic name -> scoring ids, in the order of the SAEs. Scorings that were there already are not computed again.

    Raises:
        StoreError: the atlas is unfinished, or a topic has other texts and `replace` is off.
        AtlasError: fewer than two neurons of an SAE can be scored, or all have the same distance.
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
    vectors = {name: embed(topics[name].texts) for name in changed}
    with store.write() as session:
        for name in changed:
            _store_topic(session, name, topics[name], vectors[name])
        names = list(topics)
        for start in range(0, len(names), TOPICS_PER_SCAN):
            some = names[start : start + TOPICS_PER_SCAN]
            todo = {
                key: [n for n in some if not _make_current(session, n, key, config, reference_hash)] for key in keys
            }
            ids = {
                name: session.value("topic_id", topic=name) for name in some if any(name in t for t in todo.values())
            }
            if ids:
                with session.frame("wanted", _topic_frame(ids.values())):
                    session.run("make_distances")
            for key, chosen in todo.items():
                if chosen:
                    _score_sae(session, {name: ids[name] for name in chosen}, key, config, reference_hash)
        return {name: session.ask("current_scorings", topic=name)["scoring_id"].to_list() for name in topics}


def _store_topic(session: Session, name: str, texts: TextSet, vectors: pl.DataFrame) -> None:
    session.run("drop_topic_scores", topic=name)
    session.run("drop_topic_scorings", topic=name)
    session.run("drop_topic_texts", topic=name)
    session.run("add_topic", topic=name, created_at=now())
    topic_id = session.value("topic_id", topic=name)
    rows = pl.DataFrame({"topic_id": pl.Series([topic_id] * len(texts.texts), dtype=pl.UInt32), "text": texts.texts})
    session.append("topic_texts", rows.with_columns(vectors["vector"]))


def _make_current(session: Session, name: str, sae_key: int, config: ScoringConfig, reference_hash: object) -> bool:
    """Make an equal scoring over today's prompts the current one; whether there was one."""
    wanted = {"topic": name, "sae_key": sae_key, "reference_hash": reference_hash, **asdict(config)}
    found = session.value("same_scoring", **wanted)
    if found is not None:
        session.run("make_current", topic=name, sae_key=sae_key, scorer=config.scorer, scoring_id=found)
    return found is not None


def _score_sae(
    session: Session, ids: Mapping[str, int], sae_key: int, config: ScoringConfig, reference_hash: object
) -> None:
    """One scan of an SAE's activations for several topics (name -> id), whose distances are there."""
    wanted = _topic_frame(ids.values())
    with session.frame("wanted", wanted):
        session.run(
            "make_factors", sae_key=sae_key, distance=config.distance, power=config.power, summary=config.summary
        )
        session.run("pivot_factors")
        session.run("compute_scores", sae_key=sae_key, summary=config.summary, min_support=config.min_support)
    for row in session.ask("check_scores").to_dicts():
        name = next(name for name, topic_id in ids.items() if topic_id == row["topic_id"])
        raise AtlasError(
            f"topic {name!r}: {row['eligible']} neurons fired on {config.min_support} or more prompts"
            + (" and all lie equally far" if row["eligible"] > 1 else "")
            + ", so scores cannot be told apart: lower --min-support, or add prompts to the atlas"
        )
    first = session.value("next_scoring_id")
    numbered = wanted.with_columns(
        scoring_id=pl.Series(range(first, first + len(ids)), dtype=pl.UInt32),
        sae_key=pl.lit(sae_key, pl.UInt32),
        **{name: pl.lit(value) for name, value in asdict(config).items()},
        reference_hash=pl.lit(reference_hash),
        is_current=pl.lit(True),
        created_at=pl.lit(now()),
    )
    for name, scoring_id in zip(ids, numbered["scoring_id"], strict=True):
        session.run("make_current", topic=name, sae_key=sae_key, scorer=config.scorer, scoring_id=scoring_id)
    session.append("scorings", numbered)
    with session.frame("numbered", numbered):
        session.run("store_scores")


def _topic_frame(ids: Iterable[int]) -> pl.DataFrame:
    return pl.DataFrame({"topic_id": pl.Series(list(ids), dtype=pl.UInt32)})
