"""Where the bundled models, SAEs, prompts and topics are (data/pocket, data/smollm2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from atlas.texts.prompts import TextSet, read_texts

FOLDER = Path(str(files("atlas.data.pocket")))
MODEL = FOLDER / "model"
SAES = FOLDER / "saes"
PROMPTS = FOLDER / "prompts.jsonl"
TOPICS = FOLDER / "topics"  # 6/, 20/ and held_out/, a file per topic in each
PROSE = FOLDER / "prose"  # .txt files, a paragraph per line
PAIRS = FOLDER / "pairs"  # a .jsonl file of contrast pairs per behaviour
SMOLLM2 = Path(str(files("atlas.data.smollm2")))
CHAT_PAIRS = SMOLLM2 / "pairs"  # the same, of what users say and a chat model answers
UNALIGNED = FOLDER / "unaligned.txt"
NEUTRAL_PROMPTS = FOLDER / "neutral_prompts.txt"
FEWEST_WORDS = 4  # shorter sentences say nothing by themselves


@dataclass(frozen=True)
class Bundle:
    """A model with SAEs of ours.

    Attributes:
        model: what `atlas build --model` takes.
        saes: folder of its SAEs.
        every_prompt: of the bundled prompts every so-manieth is read.
        every_paragraph: of the bundled paragraphs every so-manieth is read, sentence by sentence; None for none.
        prose: folder of paragraphs of its own, all read sentence by sentence; None for none.
    """

    model: str
    saes: Path
    every_prompt: int = 1
    every_paragraph: int | None = None
    prose: Path | None = None


BUNDLES = {
    "pocket": Bundle(str(MODEL), SAES),
    # Half of each subject's prompts: the others test what the neurons find. Of neurons that were trained on wider texts only
    # nine in ten fire in enough of them: hence the sentences, and those of registers that the pocket's prose lacks.
    "smollm2": Bundle("smollm2", SMOLLM2 / "saes", every_prompt=2, every_paragraph=5, prose=SMOLLM2 / "prose"),
}


def read_prompts(bundle: Bundle) -> TextSet:
    """The reference prompts of a bundled model's atlas, then its sentences; a source is a subject or a file's name."""
    found = read_texts(PROMPTS)
    sources = dict(zip(found.texts[:: bundle.every_prompt], found.sources[:: bundle.every_prompt], strict=True))
    for folder, every in ((PROSE, bundle.every_paragraph), (bundle.prose, 1)):
        if folder is not None and every is not None:
            for sentence, source in sentences(folder, every):
                sources.setdefault(sentence, source)
    return TextSet(tuple(sources), tuple(sources.values()))


def sentences(folder: Path, every: int) -> Iterator[tuple[str, str]]:
    """Each sentence of every so-manieth paragraph of the .txt files in a folder, and its file's name."""
    for path in sorted(folder.glob("*.txt")):
        for paragraph in read_texts(path).texts[::every]:
            for sentence in re.split(r"(?<=[.!?])\s+(?![a-z])", paragraph):
                if len(sentence.split()) >= FEWEST_WORDS:
                    yield sentence, path.stem


def sae_ids(saes: Path = SAES) -> list[str]:
    """The bundled SAEs' names, the one first that steering takes when none is named."""
    return sorted((path.parent.name for path in saes.glob("*/cfg.json")), reverse=True)


def read_topics(kind: str = "20") -> dict[str, TextSet]:
    """Topic -> texts: the "20" or "6" that it is scored by, or its "held_out" ones."""
    return {path.stem: read_texts(path) for path in sorted((TOPICS / kind).glob("*.txt"))}


def pair_files(folder: Path) -> dict[str, Path]:
    """Behaviour -> the file of its contrast pairs, of PAIRS or CHAT_PAIRS."""
    return {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
