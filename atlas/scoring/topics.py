"""Topics in the store: their texts, embeddings and activations, and which scoring of one is current."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from atlas.scoring.config import ScoringConfig
from atlas.scoring.model_evidence import Evidence
from atlas.store.session import Session, now


def drop_topic(session: Session, name: str) -> None:
    """Drop a topic's texts, and what was computed from them."""
    session.run("drop_topic", topic=name)


def store_topics(
    session: Session, texts: Mapping[str, Sequence[str]], vectors: Mapping[str, pl.Series]
) -> dict[str, int]:
    """Store the topics that are new, and the texts of those of which there are vectors; name -> topic_id of all."""
    known = dict(session.ask("topic_ids", names=list(texts)).iter_rows())
    first = session.next_id("topic_id")
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


def store_activations(session: Session, ids: Mapping[str, int], evidence: Evidence) -> None:
    """Store the activations on the texts of topics (name -> id) that the model was run over, and count their tokens."""
    for name in evidence.activations.keys() & ids.keys():
        n_tokens, rows = evidence.activations[name]
        counts = pl.DataFrame({"text_id": range(len(n_tokens)), "n_tokens": n_tokens})
        with session.frame("counts", counts):
            session.run("count_text_tokens", topic_id=ids[name])
        session.append("topic_activations", rows.with_columns(topic_id=pl.lit(ids[name], pl.UInt32)))


def make_current(
    session: Session, topic_ids: Sequence[int], sae_key: int, config: ScoringConfig, scoring_ids: Sequence[int]
) -> None:
    """Make these scorings the current ones of an SAE, a scorer and some topics, and no others."""
    session.run(
        "make_current",
        topic_ids=list(topic_ids),
        sae_key=sae_key,
        scorer=config.scorer,
        scoring_ids=list(scoring_ids),
    )


def topic_frame(ids: Iterable[int]) -> pl.DataFrame:
    """A frame with a column `topic_id`."""
    return pl.DataFrame({"topic_id": pl.Series(list(ids), dtype=pl.UInt32)})
