"""Figures of generated text: each is one function and one entry in METRICS (method: section 6, point 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.evaluation.figures import CLASSIFIED, Figure
from atlas.evaluation.intervals import Interval
from atlas.evaluation.language_judge import LanguageJudge, Likelihood
from atlas.evaluation.nearest_topic import TopicClassifier
from atlas.models.acceptability import load_acceptability
from atlas.models.chat import wrap_prompts
from atlas.models.embeddings import embed_texts, has_length
from atlas.models.encoders import Encoder
from atlas.models.likelihood import log_probabilities, perplexity_of
from atlas.models.loaded import LoadedModel
from atlas.models.tokens import token_rows
from atlas.steering.generation import Generation
from atlas.steering.generations import own_values


@dataclass(frozen=True)
class MetricInputs:
    """What texts are judged by.

    Attributes:
        model: the unsteered language model, its texts beginning as the steered SAE wants them.
        encoder: the atlas's sentence encoder.
        topic: embeddings of the topic's texts [text, dimension].
        held_out: embeddings of texts about the topic that it was not scored by [text, dimension], or None.
        acceptability: texts -> probability of being acceptable English, or None where the classifier is not at hand.
        positive: embeddings of completions that show a behaviour [text, dimension], or None.
        negative: embeddings of completions that show its opposite [text, dimension], or None.
        language: a language model that judges acceptability, or None.
        classifier: which topic a text is about, or None where there are no texts about other topics.
    """

    model: LoadedModel
    encoder: Encoder
    topic: np.ndarray | None
    held_out: np.ndarray | None
    acceptability: Callable[[Sequence[str]], list[float]] | None = None
    positive: np.ndarray | None = None
    negative: np.ndarray | None = None
    language: LanguageJudge | None = None
    classifier: TopicClassifier | None = None

    def describe(self) -> dict[str, Any]:
        """What is stored of it with every run: the judging language model, and how the nearest topic is told."""
        found: dict[str, Any] = {}
        if self.language is not None:
            found["judge"] = self.language.describe()
        if self.classifier is not None:
            found["classifier"] = {"rule": self.classifier.rule, "topics": list(self.classifier.topics)}
        return found

    def own_figures(self) -> dict[Figure, Interval]:
        """How well it does itself."""
        return {} if self.classifier is None else {Figure(CLASSIFIED): self.classifier.accuracy}


def make_metric_inputs(
    model: LoadedModel,
    encoder: Encoder,
    *,
    topic: Sequence[str] = (),
    held_out: Sequence[str] = (),
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    language: LanguageJudge | None = None,
    classifier: TopicClassifier | None = None,
) -> MetricInputs:
    """The inputs by texts that are embedded now; the classifier of acceptability is loaded where it is at hand."""

    def embed(texts: Sequence[str]) -> np.ndarray | None:
        return embed_texts(encoder, texts) if texts else None

    return MetricInputs(
        model,
        encoder,
        embed(topic),
        embed(held_out),
        load_acceptability(),
        embed(positive),
        embed(negative),
        language,
        classifier,
    )


@dataclass(frozen=True)
class Metric:
    """An entry of METRICS.

    Attributes:
        measure: (inputs, prompts, texts) -> a value per text; None where there is none.
        better: "low" or "high".
        help: what it is, in a line.
    """

    measure: Callable[[MetricInputs, Sequence[str], Sequence[str]], list[float | None]]
    better: str
    help: str


def perplexity(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """exp of the mean negative log-likelihood of the generated tokens only, under the unsteered model.

    The text is tokenized anew, so that a stored text gives the same figure as a fresh one. Where the tokenizer cuts it
    otherwise than it was generated (it can write one word in several ways), the tokens are those that a reader would see.
    """
    return text_perplexities(inputs.model, prompts, texts)


def text_perplexities(model: LoadedModel, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """The perplexity of each text after its prompt under a model; None for a text without a token."""
    heads, tails = model.prompt_rows(prompts), token_rows(model.tokenizer, texts, prepend_bos=False)
    rows = [(head + tail)[: model.context] for head, tail in zip(heads, tails, strict=True)]
    spans = [(max(len(head), 1), len(row)) for head, row in zip(heads, rows, strict=True)]
    known = [i for i, (begin, end) in enumerate(spans) if begin < end]
    found: list[float | None] = [None] * len(texts)
    chances = log_probabilities(model, [rows[i] for i in known], [spans[i] for i in known])
    for i, values in zip(known, chances, strict=True):
        found[i] = _finite(perplexity_of(values))
    return found


def distance_topic(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Distance of the text's embedding to the nearest of the topic's texts (method: section 2)."""
    return _distances(inputs, inputs.topic, texts)


def distance_held_out(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Distance of the text's embedding to the nearest of the held-out texts about the topic."""
    return _distances(inputs, inputs.held_out, texts)


def distance_positive(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Distance of the text's embedding to the nearest completion that shows the behaviour."""
    return _distances(inputs, inputs.positive, texts)


def distance_negative(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Distance of the text's embedding to the nearest completion that shows the opposite."""
    return _distances(inputs, inputs.negative, texts)


def leaning(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """distance_negative - distance_positive: above 0 the text is closer to completions that show the behaviour."""
    sides = zip(distance_negative(inputs, prompts, texts), distance_positive(inputs, prompts, texts), strict=True)
    return [None if far is None or near is None else far - near for far, near in sides]


def _distances(inputs: MetricInputs, others: np.ndarray | None, texts: Sequence[str]) -> list[float | None]:
    if others is None:
        return [None] * len(texts)
    known = [i for i, text in enumerate(texts) if text.strip()]
    found: list[float | None] = [None] * len(texts)
    if not known:
        return found
    own = inputs.encoder.embed([texts[i] for i in known])
    far = np.linalg.norm(own[:, None] - others[None], axis=2).min(axis=1)
    for i, value, good in zip(known, far, has_length(own), strict=True):
        found[i] = float(value) if good else None
    return found


def distinct(n: int) -> Callable[[MetricInputs, Sequence[str], Sequence[str]], list[float | None]]:
    """Distinct n-grams of tokens over all n-grams of a text: 1 when nothing is repeated (Li et al. 2016)."""

    def measure(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        found: list[float | None] = []
        for ids in token_rows(inputs.model.tokenizer, texts, prepend_bos=False):
            grams = list(zip(*(ids[i:] for i in range(n)), strict=False))
            found.append(len(set(grams)) / len(grams) if grams else None)
        return found

    return measure


def acceptability(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Probability of being acceptable English, by a classifier trained on CoLA; None where it is not at hand."""
    if inputs.acceptability is None:
        return [None] * len(texts)
    return [
        _finite(value) if text.strip() else None for value, text in zip(inputs.acceptability(texts), texts, strict=True)
    ]


def slor(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Log-probability per token under a judging model, less that of the tokens by their frequency (see language_judge)."""
    return [None if found is None else _finite(found.slor) for found in _likelihoods(inputs, prompts, texts)]


def penlp(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Log-probability under a judging model over a penalty on the length (see language_judge)."""
    return [None if found is None else _finite(found.penlp) for found in _likelihoods(inputs, prompts, texts)]


def _likelihoods(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> Sequence[Likelihood | None]:
    if inputs.language is None:
        return [None] * len(texts)
    if inputs.model.chat:  # answers, which a judge without a template reads on the next line
        tokenizer = inputs.language.model.tokenizer
        wrapped = getattr(tokenizer, "chat_template", None) is not None
        prompts = (
            wrap_prompts(tokenizer, prompts, system=inputs.model.system)
            if wrapped
            else [f"{prompt}\n" for prompt in prompts]
        )
    return inputs.language.read(prompts, texts)


def on_topic(inputs: MetricInputs, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """1 where the classifier assigns the text to the topic, 0 where to another; the mean is the share of texts on topic."""
    found: list[float | None] = [None] * len(texts)
    known = [i for i, text in enumerate(texts) if text.strip()]
    if inputs.classifier is None or not known:
        return found
    own = inputs.encoder.embed([texts[i] for i in known])
    for i, name, good in zip(known, inputs.classifier.assign(own), has_length(own), strict=True):
        found[i] = float(name == inputs.classifier.topic) if good else None
    return found


def _finite(value: float) -> float | None:
    """A figure, or None where arithmetic gave no number."""
    return float(value) if math.isfinite(value) else None


METRICS = {
    "perplexity": Metric(perplexity, "low", "of the generated tokens, under the unsteered model"),
    "distance_topic": Metric(distance_topic, "low", "distance to the nearest of the topic's texts"),
    "distance_held_out": Metric(distance_held_out, "low", "distance to the nearest of the topic's held-out texts"),
    "distance_positive": Metric(distance_positive, "low", "distance to the nearest completion that shows a behaviour"),
    "distance_negative": Metric(
        distance_negative, "high", "distance to the nearest completion that shows the opposite"
    ),
    "leaning": Metric(leaning, "high", "distance_negative - distance_positive"),
    "distinct_1": Metric(distinct(1), "high", "distinct tokens over tokens"),
    "distinct_2": Metric(distinct(2), "high", "distinct pairs of tokens over pairs"),
    "on_topic": Metric(on_topic, "high", "1 where, of all topics' held-out texts, the topic's are nearest; else 0"),
    "acceptability": Metric(acceptability, "high", "probability of acceptable English, by a CoLA classifier"),
    "slor": Metric(slor, "high", "log-probability per token less that by frequency, under the model of --judge"),
    "penlp": Metric(penlp, "high", "log-probability over a penalty on the length, under the model of --judge"),
}


def measure(
    inputs: MetricInputs, generations: Sequence[Generation], names: Sequence[str] | None = None
) -> dict[str, list[float | None]]:
    """Every metric (or the named ones) of every text; the figures that came with the generation too."""
    prompts, texts = [g.prompt for g in generations], [g.text for g in generations]
    chosen = METRICS if names is None else names
    return {name: METRICS[name].measure(inputs, prompts, texts) for name in chosen} | own_values(generations)
