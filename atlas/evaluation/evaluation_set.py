"""The texts that an evaluation runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import AtlasError, PromptError
from atlas.texts import bundled
from atlas.texts.prompts import list_files, read_texts


@dataclass(frozen=True)
class EvaluationSet:
    """What an evaluation runs on; nothing of it may be among the topic's own texts.

    Attributes:
        held_out: texts about the topic.
        unaligned: everyday texts about nothing of the kind.
        prompts: neutral openings to generate from.
        others: texts about other topics; may be empty. By topic, a mapping, they also tell which topic a text is about.

    Raises:
        AtlasError: there is no held-out text, or no prompt.
    """

    held_out: Sequence[str]
    unaligned: Sequence[str]
    prompts: Sequence[str]
    others: Sequence[str] | Mapping[str, Sequence[str]] = ()

    def __post_init__(self) -> None:
        for name, texts in (("held-out text", self.held_out), ("prompt to generate from", self.prompts)):
            if not texts:
                raise AtlasError(f"there is no {name} to evaluate on: give at least one")

    @property
    def by_topic(self) -> Mapping[str, Sequence[str]]:
        """Texts about other topics by topic; empty where it is not said which is about what."""
        return self.others if isinstance(self.others, Mapping) else {}

    @property
    def other_texts(self) -> Sequence[str]:
        """All texts about other topics."""
        if isinstance(self.others, Mapping):
            return [text for texts in self.others.values() for text in texts]
        return self.others


def read_evaluation_set(
    topic: str,
    held_out: str | Path | None = None,
    unaligned: str | Path | None = None,
    others: str | Path | None = None,
    prompts: str | Path | None = None,
) -> EvaluationSet:
    """The texts of the files that are named, and the bundled ones elsewhere.

    Args:
        topic: its own texts are not among those about other topics.
        held_out: a file of texts about the topic that it was not scored by.
        unaligned: a file of everyday texts.
        others: a folder with a file of texts per topic.
        prompts: a file of openings to generate from.

    Raises:
        PromptError: a file cannot be read, or the topic has no bundled texts.
    """
    own = read_held_out(topic, held_out)
    if not own:
        raise PromptError(f"topic {topic!r} has no bundled held-out texts: name a file of some with --held-out")
    return EvaluationSet(
        held_out=own,
        unaligned=read_texts(unaligned or bundled.UNALIGNED).texts,
        prompts=read_texts(prompts or bundled.NEUTRAL_PROMPTS).texts,
        others=read_others(topic, others),
    )


def read_held_out(topic: str, path: str | Path | None = None) -> Sequence[str]:
    """Held-out texts of a file, or the bundled ones of the topic; none where it has none."""
    if path is not None:
        return read_texts(path).texts
    ours = bundled.read_topics("held_out")
    return ours[topic].texts if topic in ours else ()


def read_others(topic: str, path: str | Path | None = None) -> dict[str, Sequence[str]]:
    """Other topics -> texts about them: of a folder with a file per topic, or the bundled held-out ones."""
    found = (
        bundled.read_topics("held_out")
        if path is None
        else {name: read_texts(file) for name, file in list_files(Path(path)).items()}
    )
    return {name: texts.texts for name, texts in found.items() if name != topic}
