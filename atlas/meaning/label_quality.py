"""How good a label is, without a judge: does closeness to it tell the prompts on which its neuron fires most from others?

The prompts are ones that were kept out of the label's making (method: section 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from atlas.auroc import auroc
from atlas.store.contents import stack_vectors
from atlas.store.session import Asks

Embed = Callable[[Sequence[str]], pl.DataFrame]  # texts -> a frame with their embeddings in `vector`
SEED = 0
TESTED_SHARE = 1 / 3  # of the reference prompts, kept out of the making of labels
MADE_OF, TESTED_ON = 16_384, 8_192  # prompts at most, drawn at random: what memory holds does not grow with the atlas
STRONGEST = 10  # prompts of those kept out on which the neuron fires most
GOOD = 0.75  # least quality of a label of words that is shown: the number of the view neuron_labels
NEURONS = 4096  # whose strongest prompts are read at once
LEAST_PROMPTS = 5  # of them, or the quality of the neuron's label is not measured


def split_prompts(prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """The prompts that labels are made of, and those that they are tested on."""
    drawn = np.random.default_rng(SEED).permutation(prompts)
    tested = int(prompts * TESTED_SHARE)
    return np.sort(drawn[tested:][:MADE_OF]), np.sort(drawn[:tested][:TESTED_ON])


def read_embeddings(session: Asks, prompts: np.ndarray) -> np.ndarray:
    """The embeddings of some prompts, in order [prompt, dimension]."""
    rows = session.ask("some_embeddings", prompts=prompts.tolist())
    return stack_vectors(rows["vector"]) if rows.height else np.zeros((0, 0), dtype=np.float32)


def strongest_prompts(session: Asks, sae_key: int, first: int, last: int, prompts: np.ndarray) -> dict[int, np.ndarray]:
    """Neuron -> the places in `prompts` of those on which it fires most; only neurons that fire on enough of them."""
    settings = {"first": first, "last": last, "prompts": prompts.tolist(), "count": STRONGEST}
    rows = session.ask("strongest_prompts", sae_key=sae_key, **settings)
    found: dict[int, np.ndarray] = {}
    for (neuron,), own in rows.group_by("neuron", maintain_order=True):
        if own.height >= LEAST_PROMPTS:
            found[int(str(neuron))] = np.searchsorted(prompts, own["prompt_id"].to_numpy())
    return found


def quality_of_labels(session: Asks, sae_key: int, labels: Mapping[int, np.ndarray]) -> dict[int, float | None]:
    """Neuron -> the quality of its label, given the embedding of each, for labels that were not made of the atlas's prompts."""
    prompts = split_prompts(session.ask("atlas_size").item(0, "prompts"))[1]
    embeddings = read_embeddings(session, prompts)
    found: dict[int, float | None] = {}
    neurons = sorted(labels)
    for start in range(0, len(neurons), NEURONS):
        some = neurons[start : start + NEURONS]
        strongest = strongest_prompts(session, sae_key, some[0], some[-1], prompts)
        vectors = np.stack([labels[neuron] for neuron in some])
        qualities = measure_quality(vectors, [strongest.get(neuron) for neuron in some], embeddings)
        found |= zip(some, qualities, strict=True)
    return found


def measure_quality(
    labels: np.ndarray, strongest: Sequence[np.ndarray | None], embeddings: np.ndarray
) -> list[float | None]:
    """The AUROC of each label: how often one of the neuron's strongest prompts is closer to it than another prompt.

    Args:
        labels: embeddings of the labels, of any length [label, dimension].
        strongest: places of each neuron's strongest prompts; None where there are too few.
        embeddings: those of the prompts [prompt, dimension].

    Returns:
        A value per label; None where there are too few strongest prompts, or no others.
    """
    found: list[float | None] = []
    for label, own in zip(labels, strongest, strict=True):
        others = 0 if own is None else len(embeddings) - len(own)
        if own is None or not others:
            found.append(None)
            continue
        closeness = embeddings @ label.astype(embeddings.dtype)
        found.append(auroc(closeness[own], np.delete(closeness, own)))
    return found
