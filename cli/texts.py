"""What commands read when a file is named, and the bundled texts and pairs that they take when none is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import PromptError
from atlas.texts import bundled
from atlas.texts.pairs import ENDINGS as PAIR_ENDINGS
from atlas.texts.pairs import PairSet, collect_pairs, pair_texts, read_pairs
from atlas.texts.prompts import list_files, read_texts

if TYPE_CHECKING:
    from atlas.reproduction.exhibit_inputs import TestTexts
    from atlas.store.file import Store


def read_behaviour(name: str, path: str | None) -> PairSet:
    """The contrast pairs of a file, or the bundled ones of a behaviour; PromptError when there are none."""
    ours = bundled.pair_files(bundled.PAIRS) | bundled.pair_files(bundled.CHAT_PAIRS)
    if path is None and name not in ours:
        raise PromptError(
            f"behaviour {name!r} has no bundled pairs ({', '.join(sorted(ours))} have): name a file of some"
        )
    return read_pairs(path or ours[name])


def read_unrelated(name: str, files: tuple[str, ...], *, chat: bool = False) -> PairSet:
    """The pairs of some files, by default the bundled ones of every other behaviour of NAME's kind.

    Where NAME has no bundled pairs, its kind is answers to a user if chat, else completions.
    """
    kinds = [bundled.pair_files(folder) for folder in (bundled.PAIRS, bundled.CHAT_PAIRS)]
    own = next((kind for kind in kinds if name in kind), kinds[chat])
    paths = files or [path for stem, path in own.items() if stem != name]
    return collect_pairs(row for path in paths for row in read_pairs(path).rows())


def topic_pairs(store: Store, topic: str, unaligned: str | None) -> PairSet:
    """A scored topic's texts against everyday texts."""
    from atlas.scoring.scored import require_scored

    everyday = read_texts(unaligned or bundled.UNALIGNED).texts
    with store.read() as session:
        require_scored(session, topic)
        return pair_texts(session.ask("topic_texts", topic=topic)["text"].to_list(), everyday)


def read_test_texts(
    held_out: str | None, unaligned: str | None, prompts: str | None, pairs: str | None, subjects: str | None = None
) -> TestTexts:
    """The texts that no topic was scored by: those of the files and folders that are named, the bundled ones elsewhere."""
    from atlas.reproduction.exhibit_inputs import TestTexts

    named = {} if held_out is None else {name: read_texts(path) for name, path in list_files(Path(held_out)).items()}
    behaviours = list_files(Path(pairs or bundled.PAIRS), PAIR_ENDINGS, of="contrast pairs", per="behaviour")
    return TestTexts(
        held_out={name: texts.texts for name, texts in (named or bundled.read_topics("held_out")).items()},
        unaligned=read_texts(unaligned or bundled.UNALIGNED).texts,
        prompts=read_texts(prompts or bundled.NEUTRAL_PROMPTS).texts,
        short={} if held_out is not None else {name: texts.texts for name, texts in bundled.read_topics("6").items()},
        pairs={name: read_pairs(path) for name, path in behaviours.items()},
        subjects=read_subjects(subjects),
    )


def read_subjects(path: str | None) -> dict[str, list[str]]:
    """Subject -> texts, of a file whose column `source` names the subject, or of the bundled prompts."""
    texts = read_texts(path or bundled.PROMPTS)
    found: dict[str, list[str]] = {}
    for text, source in zip(texts.texts, texts.sources, strict=True):
        if source is not None:
            found.setdefault(source, []).append(text)
    return found
