"""The quality of labels beside that of what stands for a neuron without them: its tokens, and words drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from atlas.errors import AtlasError
from atlas.meaning.label_quality import GOOD, SEED, measure_quality, read_embeddings, split_prompts, strongest_prompts
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import Asks

NEURONS = 200  # of an SAE, drawn at random
KINDS = ("label", "tokens it fires on", "tokens it writes", "random words")
SEPARATOR = ", "  # of a label's parts


def compare_labels(
    store: Store, *, embed: Callable[[Sequence[str]], pl.DataFrame], source: str, sae_keys: Sequence[int] | None = None
) -> pl.DataFrame:
    """How well prompts are told by the labels of a source, and by other words for the same neurons.

    Each is the mean of the embeddings of its words: a label's parts, five tokens that the neuron fires on most in the prompts
    that labels are made of, five that it writes, and as many parts of labels of neurons drawn at random as its label has.

    Args:
        store: an atlas with labels.
        embed: texts -> a frame with their embeddings in `vector`.
        source: of the labels.
        sae_keys: which SAEs; None for all.

    Returns:
        A row per SAE and kind of words: how many neurons, and the distribution of the quality.

    Raises:
        AtlasError: no label's quality was measured.
    """
    with store.read() as session:
        making, testing = split_prompts(session.ask("atlas_size").item(0, "prompts"))
        tested_on = read_embeddings(session, testing)
        drawn, strongest = _draw(session, making, testing, source, sae_keys)
    if not drawn.height:
        raise AtlasError("no label's quality was measured, so there is nothing to compare: make labels first")
    words = {kind: drawn[kind].to_list() for kind in KINDS}
    names = list(dict.fromkeys(word for lists in words.values() for own in lists for word in own))
    vectors = dict(zip(names, stack_vectors(embed(names)["vector"]), strict=True))
    nothing = np.zeros(tested_on.shape[1], dtype=tested_on.dtype)
    frames = []
    for kind, lists in words.items():
        means = np.array([np.mean([vectors[word] for word in own], axis=0) if own else nothing for own in lists])
        quality = pl.Series("quality", measure_quality(means, strongest, tested_on), dtype=pl.Float64)
        frames.append(drawn.select("sae_id").with_columns(quality, words=pl.lit(kind)))
    return _distribution(pl.concat(frames))


def _draw(
    session: Asks, making: np.ndarray, testing: np.ndarray, source: str, sae_keys: Sequence[int] | None
) -> tuple[pl.DataFrame, list[np.ndarray | None]]:
    """Neurons with the words of each kind, and the prompts on which each fires most."""
    rng = np.random.default_rng(SEED)
    frames, strongest = list[pl.DataFrame](), list[np.ndarray | None]()
    for row in session.ask("all_saes").iter_rows(named=True):
        if sae_keys is not None and row["sae_key"] not in sae_keys:
            continue
        settings = {"sae_key": row["sae_key"], "source": source, "count": NEURONS, "prompts": making.tolist()}
        found = session.ask("labelled_words", **settings)
        parts = found["label"].str.split(SEPARATOR)
        pool = parts.explode().to_list()
        random = [rng.choice(pool, len(own)).tolist() for own in parts]
        kinds = [parts, found["fires_on"], found["writes"], pl.Series(random, dtype=pl.List(pl.String))]
        frames.append(pl.DataFrame(dict(zip(KINDS, kinds, strict=True))).with_columns(sae_id=pl.lit(row["sae_id"])))
        if found.height:
            ends = found["neuron"].min(), found["neuron"].max()
            own_prompts = strongest_prompts(session, row["sae_key"], *ends, testing)  # type: ignore[arg-type]
            strongest += [own_prompts.get(neuron) for neuron in found["neuron"]]
    return pl.concat(frames), strongest


def _distribution(found: pl.DataFrame) -> pl.DataFrame:
    quality = pl.col("quality")
    return found.group_by("sae_id", "words", maintain_order=True).agg(
        neurons=quality.count(),
        mean=quality.mean(),
        lowest_tenth=quality.quantile(0.1),
        median=quality.median(),
        highest_tenth=quality.quantile(0.9),
        good=(quality >= GOOD).mean(),
    )
