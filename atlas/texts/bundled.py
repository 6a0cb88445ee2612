"""Where the bundled model, SAEs, prompts and topics are (data/pocket)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from atlas.texts.prompts import TextSet, read_texts

FOLDER = Path(str(files("atlas.data.pocket")))
MODEL = FOLDER / "model"
SAES = FOLDER / "saes"
PROMPTS = FOLDER / "prompts.jsonl"
TOPICS = FOLDER / "topics"  # 6/, 20/ and held_out/, a file per topic in each
PAIRS = FOLDER / "pairs"  # a .jsonl file of contrast pairs per behaviour
UNALIGNED = FOLDER / "unaligned.txt"
NEUTRAL_PROMPTS = FOLDER / "neutral_prompts.txt"


def sae_ids() -> list[str]:
    """The bundled SAEs' names, the deeper layer first: it is the one that steering takes when none is named."""
    return sorted((path.parent.name for path in SAES.glob("*/cfg.json")), reverse=True)


def read_topics(kind: str = "20") -> dict[str, TextSet]:
    """Topic -> texts: the "20" or "6" that it is scored by, or its "held_out" ones."""
    return {path.stem: read_texts(path) for path in sorted((TOPICS / kind).glob("*.txt"))}
