"""A few words for every neuron, without a language model (method: section 8).

A neuron's words stand in the prompts it fires on more often than elsewhere, and their embeddings are closer to its vector than
those of other words. Labels are made of two thirds of the prompts, and tested on the rest (atlas.meaning.label_quality).
Activations pass through memory a run of neurons at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from atlas.errors import AtlasError
from atlas.meaning.label_quality import Embed, measure_quality, read_embeddings, split_prompts, strongest_prompts
from atlas.meaning.terms import Terms, collect_terms
from atlas.progress import Progress, silent
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import Asks, now
from atlas.store.state import require_complete
from atlas.store.waiting import patient
from atlas.store.weights import weight_runs

if TYPE_CHECKING:
    from scipy import sparse

SOURCE = "words"  # of the labels made here
SUMMARY = "mean"  # of the activations that weigh the prompts, as for the vectors
WORDS = 3  # terms of a label, at most
RATIO = 0.5  # of the best term's rating, below which another is left out of the label
TRIED = 50  # of a neuron's best terms, when some of them say the same
PROMPTS = 2  # of the neuron that a term must stand in
BEYOND = 1.5  # standard deviations of chance by which a term must be more frequent in them
SHORTEST_STEM, LONGEST_STEM = 3, 5  # letters by which two words count as one
NEURONS = 64  # rated at once
EMBEDDED = 512  # terms at once


@dataclass(frozen=True)
class Material:
    """What the labels of an atlas are made of and tested on.

    Attributes:
        making: numbers of the prompts of the making.
        made_of: their embeddings [prompt, dimension].
        testing: numbers of the prompts kept out.
        tested_on: their embeddings.
        terms: the words and phrases of the prompts of the making.
        vectors: their embeddings [term, dimension].
    """

    making: np.ndarray
    made_of: np.ndarray
    testing: np.ndarray
    tested_on: np.ndarray
    terms: Terms
    vectors: np.ndarray


def label_neurons(
    store: Store, *, embed: Embed, sae_keys: Sequence[int] | None = None, progress: Progress = silent
) -> None:
    """Make the labels of every neuron that fired, and store them in the place of those of an earlier call.

    Args:
        store: a finished atlas.
        embed: texts -> a frame with their embeddings in `vector`.
        sae_keys: which SAEs; None for all.
        progress: called with (stage, done, total), in terms and in neurons.

    Raises:
        AtlasError: no word stands in enough prompts.
        StoreError: the atlas is unfinished, or cannot be written.
    """
    with store.read() as session:
        require_complete(session, store)
        keys = session.ask("all_saes")["sae_key"].to_list() if sae_keys is None else list(sae_keys)
    material = collect_material(store, embed, progress)
    frames = []
    for sae_key in keys:
        with store.read() as session:
            frames += list(make_labels(session, sae_key, material, progress))
    with patient(), store.write() as session:
        session.run("drop_labels", source=SOURCE, sae_keys=keys)
        for frame in frames:
            session.append("labels", frame.with_columns(source=pl.lit(SOURCE), created_at=pl.lit(now())))


def collect_material(store: Store, embed: Embed, progress: Progress) -> Material:
    """What the labels of an atlas are made of; each word and phrase is embedded once."""
    with store.read() as session:
        making, testing = split_prompts(session.ask("atlas_size").item(0, "prompts"))
        texts = session.ask("some_texts", prompts=making.tolist())["text"].to_list()
        made_of, tested_on = (read_embeddings(session, prompts) for prompts in (making, testing))
    progress("collecting words", 0, 0)
    terms = collect_terms(texts)
    if not terms.names:
        raise AtlasError(
            f"no word stands in enough of the {len(texts):,} prompts that labels are made of, so there are none to label "
            "neurons by: add prompts to the atlas"
        )
    parts = []
    for start in range(0, len(terms.names), EMBEDDED):
        progress("embedding words", start, len(terms.names))
        parts.append(stack_vectors(embed(terms.names[start : start + EMBEDDED])["vector"]))
    progress("embedding words", len(terms.names), len(terms.names))
    return Material(making, made_of, testing, tested_on, terms, np.concatenate(parts))


def make_labels(session: Asks, sae_key: int, material: Material, progress: Progress = silent) -> Iterator[pl.DataFrame]:
    """The labels of an SAE's neurons with their quality, a run of neurons at a time; none for neurons that no term fits."""
    neurons = session.ask("matching_columns", sae_key=sae_key).height
    ratings = Ratings(material)
    stage = f"labelling the neurons of SAE {sae_key}"
    for first, weights in weight_runs(session, sae_key, SUMMARY, values=2 * material.vectors.shape[1]):
        own = weights[:, material.making].tocsr()
        last = first + own.shape[0] - 1
        strongest = strongest_prompts(session, sae_key, first, last, material.testing)
        for start in range(0, own.shape[0], NEURONS):
            progress(stage, first + start, neurons)
            rated = ratings.rate(own[start : start + NEURONS])
            chosen = {first + start + row: choose_terms(line, material.terms.names) for row, line in enumerate(rated)}
            yield _as_frame(sae_key, {neuron: terms for neuron, terms in chosen.items() if terms}, material, strongest)
    progress(stage, neurons, neurons)


def _as_frame(
    sae_key: int, chosen: dict[int, list[int]], material: Material, strongest: dict[int, np.ndarray]
) -> pl.DataFrame:
    """Labels of some neurons, given the terms of each."""
    means = np.array([material.vectors[terms].mean(axis=0) for terms in chosen.values()])
    quality = measure_quality(means, [strongest.get(neuron) for neuron in chosen], material.tested_on)
    labels = [", ".join(material.terms.names[term] for term in terms) for terms in chosen.values()]
    return pl.DataFrame(
        {"sae_key": sae_key, "neuron": list(chosen), "label": labels, "quality": quality},
        schema={"sae_key": pl.UInt32, "neuron": pl.UInt32, "label": pl.String, "quality": pl.Float32},
    )


class Ratings:
    """How well each term fits neurons, given the weights of the prompts of the making."""

    def __init__(self, material: Material) -> None:
        self._material = material
        occurrences = material.terms.occurrences
        self._chance = np.asarray(occurrences.sum(axis=0)).ravel() / occurrences.shape[0]
        vectors = material.vectors.astype(np.float64)
        self._off = vectors - vectors.mean(axis=0)
        self._covariance = self._off.T @ self._off / len(vectors)
        self._centre = material.made_of.mean(axis=0, dtype=np.float64)

    def rate(self, weights: sparse.csr_array) -> np.ndarray:
        """The rating of each term for some neurons [neuron, term]; -inf where it does not fit.

        Closeness of the term to the neuron's vector, times the root of how much more often the term stands in the neuron's
        prompts than in all: each in standard deviations of chance.
        """
        from scipy import sparse

        fired = sparse.csr_array((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)
        prompts = (fired @ self._material.terms.occurrences).toarray()
        with np.errstate(invalid="ignore", divide="ignore"):
            rating = self._closeness(weights) * np.sqrt(self._frequency(weights))
            fits = (prompts >= PROMPTS) & (self._frequency(weights) >= BEYOND)
        return np.where(fits & np.isfinite(rating) & (rating > 0), rating, -np.inf)

    def _closeness(self, weights: sparse.csr_array) -> np.ndarray:
        """How much closer a term is to the neuron's vector than random terms are, in standard deviations of those."""
        total = weights.sum(axis=1)[:, None]
        vectors = weights @ self._material.made_of / total - self._centre
        spread = np.sqrt(np.einsum("nd,nd->n", vectors @ self._covariance, vectors))
        return np.asarray(vectors @ self._off.T / spread[:, None])

    def _frequency(self, weights: sparse.csr_array) -> np.ndarray:
        """How much more often a term stands in the neuron's prompts, by weight, in standard deviations of so many random ones."""
        total = weights.sum(axis=1)[:, None]
        share = (weights @ self._material.terms.occurrences).toarray() / total
        effective = total**2 / weights.power(2).sum(axis=1)[:, None]
        return np.asarray((share - self._chance) / np.sqrt(self._chance * (1 - self._chance) / effective))


def choose_terms(ratings: np.ndarray, names: Sequence[str]) -> list[int]:
    """The terms of a label, best first: no two of them with a word in common, and none far behind the best."""
    best = np.argsort(-ratings, kind="stable")[:TRIED]
    chosen, words = list[int](), list[str]()
    for term in best:
        if not np.isfinite(ratings[term]) or ratings[term] < RATIO * ratings[best[0]] or len(chosen) == WORDS:
            break
        own = names[term].split()
        if not any(_of_one_stem(one, other) for one in own for other in words):
            chosen.append(int(term))
            words += own
    return chosen


def _of_one_stem(one: str, other: str) -> bool:
    """Whether two words begin alike, as forms of one do: take and taking, seed and seeds."""
    shared = max(SHORTEST_STEM, min(LONGEST_STEM, len(one) - 1, len(other) - 1))
    return len(one) >= shared and one[:shared] == other[:shared]
