"""Is this the model, SAE and encoder the atlas was built with, and is its build finished?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atlas.errors import StoreError, UnknownName
from atlas.scorers import SCORERS
from atlas.store import Session, Store

if TYPE_CHECKING:
    from atlas.models import Encoder


def require_complete(session: Session, store: Store) -> dict[str, Any]:
    """The row of `atlas`; StoreError while the build is unfinished."""
    rows = session.ask("atlas_row").to_dicts()
    if not rows or rows[0]["state"] != "complete":
        pending = session.ask("atlas_size").item(0, "pending_shards")
        raise StoreError(
            f"{store.path} is unfinished ({pending} pieces to go): run the same `atlas build` command again to go on"
        )
    return rows[0]


def require_scored(session: Session, topic: str, scorer: str = "distance") -> dict[int, int]:
    """sae_key -> id of a topic's current scoring; UnknownName, or StoreError when it has none over today's prompts."""
    if scorer not in SCORERS:
        raise UnknownName("scorer", scorer, SCORERS)
    topics = session.ask("all_topics")["name"].to_list()
    if topic not in topics:
        raise UnknownName("topic", topic, topics, hint="score it first with `atlas score`")
    rows = session.ask("current_scorings", topic=topic, scorer=scorer).to_dicts()
    if not rows and session.ask("topic_scorings", topic=topic, scorer=scorer).height:
        raise StoreError(f"topic {topic!r} was scored over other prompts: run `atlas score` for it again")
    if not rows:
        option = "" if scorer == "distance" else f" --scorer {scorer}"
        raise StoreError(f"topic {topic!r} has no {scorer} scores: run `atlas score{option}` for it")
    return {row["sae_key"]: row["scoring_id"] for row in rows}


def check_identity(row: dict[str, Any], model_hash: str, tokenizer_hash: str, sae_hash: str | None = None) -> None:
    """Raise StoreError when a row of `saes` was made with another model, tokenizer or SAE."""
    for kind, name, found, recorded in (
        ("model", row["model"], model_hash, row["model_hash"]),
        ("tokenizer", row["model"], tokenizer_hash, row["tokenizer_hash"]),
        ("SAE", row["sae_id"], sae_hash or row["sae_hash"], row["sae_hash"]),
    ):
        if found != recorded:
            raise StoreError(
                f"this {kind} is not the one the atlas was built with ({name}): its weights differ; "
                f"use that one, or build another atlas"
            )


def check_encoder(encoder: Encoder, recorded: Mapping[str, object]) -> None:
    """Raise StoreError when an atlas's row says that its texts were embedded by another encoder."""
    if encoder.encoder_hash != recorded["encoder_hash"]:
        raise StoreError(
            f"encoder {encoder.name} ({encoder.source}) is not the one this atlas was built with, "
            f"{recorded['encoder']}: name that one with --encoder"
        )
