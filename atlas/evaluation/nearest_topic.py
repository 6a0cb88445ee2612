"""Which topic a text is about: the one whose held-out texts it is nearest to, by a rule that did best on those texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas.evaluation.intervals import Interval, share_interval
from atlas.models.embeddings import embed_texts
from atlas.models.encoders import Encoder


@dataclass(frozen=True)
class TopicClassifier:
    """Assigns a text to one of several topics by its embedding.

    Attributes:
        topic: the topic that texts are steered to.
        topics: every topic, that one first.
        rule: key of NEARNESS: what is nearest, the mean of a topic's texts or one of them.
        accuracy: share of the held-out texts that it assigns to their own topic, each left out in its turn.
        vectors: embeddings of the held-out texts [text, dimension].
        labels: the number in `topics` of each [text].
    """

    topic: str
    topics: tuple[str, ...]
    rule: str
    accuracy: Interval
    vectors: np.ndarray
    labels: np.ndarray

    def assign(self, vectors: np.ndarray) -> list[str]:
        """The topic of each embedding [text, dimension]."""
        near = NEARNESS[self.rule](vectors, self.vectors, self.labels, left_out=False)
        return [self.topics[number] for number in near.argmax(axis=1)]


def to_mean(own: np.ndarray, others: np.ndarray, labels: np.ndarray, *, left_out: bool) -> np.ndarray:
    """Minus the squared distance to the mean of a topic's texts [text, topic]; -inf for a topic without another text.

    Args:
        own: embeddings [text, dimension].
        others: embeddings of the topics' texts [other, dimension].
        labels: the number of each one's topic [other].
        left_out: whether `own` are the others themselves, each to be compared with the rest.
    """
    member = np.eye(int(labels.max()) + 1)[labels]  # [other, topic]
    taken = member if left_out else np.zeros((len(own), member.shape[1]))  # what of itself a text is not compared with
    sums, counts = member.T @ others, member.sum(axis=0) - taken
    length = (own**2).sum(axis=1, keepdims=True)
    along = own @ sums.T
    dots = (along - taken * length) / np.maximum(counts, 1)
    squares = ((sums**2).sum(axis=1) - 2 * taken * along + taken * length) / np.maximum(counts, 1) ** 2
    return np.where(counts > 0, 2 * dots - squares - length, -np.inf)


def to_text(own: np.ndarray, others: np.ndarray, labels: np.ndarray, *, left_out: bool) -> np.ndarray:
    """Minus the squared distance to the nearest of a topic's texts [text, topic]; the arguments of `to_mean`."""
    near = 2 * own @ others.T - (own**2).sum(axis=1, keepdims=True) - (others**2).sum(axis=1)
    if left_out:
        np.fill_diagonal(near, -np.inf)
    return np.column_stack([near[:, labels == number].max(axis=1) for number in range(int(labels.max()) + 1)])


NEARNESS = {"nearest mean": to_mean, "nearest text": to_text}


def make_classifier(
    encoder: Encoder, topic: str, held_out: Sequence[str], others: Mapping[str, Sequence[str]]
) -> TopicClassifier | None:
    """The classifier that does best on the held-out texts themselves, each left out; None where there is one topic only.

    Args:
        encoder: the atlas's sentence encoder.
        topic: the topic that texts are steered to.
        held_out: texts about it that it was not scored by.
        others: other topics -> texts about them.
    """
    texts = {topic: held_out, **{name: found for name, found in others.items() if name != topic and found}}
    if not held_out or len(texts) < 2:
        return None
    vectors = embed_texts(encoder, [text for found in texts.values() for text in found]).astype(np.float64)
    labels = np.repeat(np.arange(len(texts)), [len(found) for found in texts.values()])
    right = {
        name: int((near(vectors, vectors, labels, left_out=True).argmax(axis=1) == labels).sum())
        for name, near in NEARNESS.items()
    }
    rule = max(right, key=lambda name: right[name])
    return TopicClassifier(topic, tuple(texts), rule, share_interval(right[rule], len(labels)), vectors, labels)
