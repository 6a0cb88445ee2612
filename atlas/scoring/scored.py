"""A topic's current scorings."""

from __future__ import annotations

from atlas.errors import StoreError, UnknownName
from atlas.scoring.scorers import SCORERS
from atlas.store.session import Asks


def require_scored(session: Asks, topic: str, scorer: str = "distance") -> dict[int, int]:
    """sae_key -> id of a topic's current scoring; UnknownName, or StoreError when it has none over today's prompts."""
    if scorer not in SCORERS:
        raise UnknownName("scorer", scorer, SCORERS)
    rows = session.rows("current_scorings", topic=topic, scorer=scorer)
    if not rows and session.value("topic_id", topic=topic) is None:
        known = session.ask("all_topics")["name"].to_list()
        raise UnknownName("topic", topic, known, hint="score it first with `atlas score`")
    if not rows and session.rows("topic_scorings", topic=topic, scorer=scorer):
        raise StoreError(f"topic {topic!r} was scored over other prompts: run `atlas score` for it again")
    if not rows:
        option = "" if scorer == "distance" else f" --scorer {scorer}"
        raise StoreError(f"topic {topic!r} has no {scorer} scores: run `atlas score{option}` for it")
    return {row["sae_key"]: row["scoring_id"] for row in rows}
