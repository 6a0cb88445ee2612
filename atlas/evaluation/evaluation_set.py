"""The texts that an evaluation runs on."""

from __future__ import annotations

from collections.abc import Sequence
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
        others: texts about other topics; may be empty.

    Raises:
        AtlasError: there is no held-out text, or no prompt.
    """

    held_out: Sequence[str]
    unaligned: Sequence[str]
    prompts: Sequence[str]
    others: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, texts in (("held-out text", self.held_out), ("prompt to generate from", self.prompts)):
            if not texts:
                raise AtlasError(f"there is no {name} to evaluate on: give at least one")


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
    if others is None:
        rest = {name: texts.texts for name, texts in bundled.read_topics("held_out").items()}
    else:
        rest = {name: read_texts(path).texts for name, path in list_files(Path(others)).items()}
    return EvaluationSet(
        held_out=own,
        unaligned=read_texts(unaligned or bundled.UNALIGNED).texts,
        prompts=read_texts(prompts or bundled.NEUTRAL_PROMPTS).texts,
        others=[text for name, texts in rest.items() if name != topic for text in texts],
    )


def read_held_out(topic: str, path: str | Path | None = None) -> Sequence[str]:
    """Held-out texts of a file, or the bundled ones of the topic; none where it has none."""
    if path is not None:
        return read_texts(path).texts
    ours = bundled.read_topics("held_out")
    return ours[topic].texts if topic in ours else ()
