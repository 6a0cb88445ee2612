"""Topics in the store: their texts, embeddings and activations, and which scoring of one is current."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from atlas.errors import StoreError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.evidence import Evidence
from atlas.store.session import Asks, Session, now
from atlas.texts.names import require_name
from atlas.texts.prompts import TextSet

Embed = Callable[[Sequence[str]], pl.DataFrame]  # texts -> frame with a column `vector`


@dataclass(frozen=True)
class TopicTexts:
    """The texts of topics that are to be scored.

    Attributes:
        wanted: topic -> the texts it is scored by.
        stored: topic -> the texts that the atlas has of it; none for a new topic.
    """

    wanted: Mapping[str, Sequence[str]]
    stored: Mapping[str, Sequence[str]]

    @property
    def changed(self) -> list[str]:
        """The topics that get other texts than they have; the order of texts is none of it."""
        return [name for name, texts in self.wanted.items() if texts != self.stored[name]]


def stored_texts(session: Asks, topics: Iterable[str]) -> dict[str, list[str]]:
    """Topic -> the texts that the atlas has of it; none for a new topic."""
    found: dict[str, list[str]] = {name: [] for name in topics}
    for row in session.rows("texts_of_topics", names=list(found)):
        found[row["name"]].append(row["text"])
    return found


def settle_texts(session: Asks, topics: Mapping[str, TextSet], *, replace: bool) -> TopicTexts:
    """The texts to score topics by: the atlas's own order where it has the same texts.

    Raises:
        StoreError: a topic has other texts, and `replace` is off.
        AtlasError: a new topic has a name that cannot be read.
    """
    for name in topics:
        if not isinstance(name, str):
            require_name("topic", name)
    stored = stored_texts(session, topics)
    for name in topics:
        if not stored[name]:  # names in older atlases stay as they are
            require_name("topic", name)
    wanted = {
        name: stored[name] if set(stored[name]) == set(given.texts) else list(given.texts)
        for name, given in topics.items()
    }
    texts = TopicTexts(wanted, stored)
    for name in texts.changed:
        if stored[name] and not replace:
            raise StoreError(
                f"topic {name!r} has {len(stored[name])} other texts already: "
                "choose another name, or --replace to give it these texts and drop its scorings"
            )
    return texts


def embed_changed(embed: Embed, texts: TopicTexts) -> dict[str, pl.Series]:
    """Topic -> the embeddings of its texts where they changed, from one call of the encoder, which sorts by length."""
    new = list(dict.fromkeys(text for name in texts.changed for text in texts.wanted[name]))
    if not new:
        return {}
    place = {text: row for row, text in enumerate(new)}
    vectors = embed(new)["vector"]
    return {name: vectors.gather([place[text] for text in texts.wanted[name]]) for name in texts.changed}


def drop_topic(session: Session, name: str) -> None:
    """Drop a topic's texts, and what was computed from them."""
    session.run("drop_topic", topic=name)


def known_topics(session: Asks, names: Iterable[str]) -> dict[str, int]:
    """Name -> topic_id of those topics that there are, whether they have texts or not."""
    return {row["name"]: row["topic_id"] for row in session.rows("topic_ids", names=list(names))}


def store_topics(
    session: Session,
    texts: Mapping[str, Sequence[str]],
    vectors: Mapping[str, pl.Series],
    known: Mapping[str, int],
) -> dict[str, int]:
    """Store the topics that are new, and the texts of those of which there are vectors; name -> topic_id of all.

    Args:
        session: the atlas.
        texts: of all the topics.
        vectors: the embeddings of the texts of topics that have none in the atlas.
        known: topic_id of the topics that are in the atlas already.
    """
    first = session.next_id("topic_id")
    new = {name: topic_id for topic_id, name in enumerate((n for n in texts if n not in known), start=first)}
    if new:
        topics = {
            "topic_id": pl.Series(list(new.values()), dtype=pl.UInt32),
            "name": pl.Series(list(new), dtype=pl.String),
        }
        session.append("topics", pl.DataFrame(topics).with_columns(created_at=pl.lit(now())))
    ids = {name: new[name] if name in new else known[name] for name in texts}
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
