"""Random topics, against which z is measured (method: equation 7).

The standard error in closed form is part of the scoring scan itself (sql/compute_scores.sql).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from atlas.scoring.products import columns_at_once
from atlas.store.contents import stack_vectors
from atlas.store.session import Scan, Session, scan_here
from atlas.store.weights import weight_runs

NULL_SEED = 0
TOPICS_PER_SCAN = 16  # random topics: the columns of more leave the processor's cache


def ensure_null(
    session: Session,
    sae_key: int,
    *,
    texts: int,
    null_topics: int,
    summary: str,
    distance: str,
    power: float,
    min_support: int,
    reference_hash: object,
    scan: Scan = scan_here,
) -> int | None:
    """The id of the random topics that a topic of so many texts is measured against; made when they are not there.

    Each random topic is `texts` reference prompts, left out of their own topic's sums (method: section 3).

    Returns:
        None when no null is asked for, or when the atlas has fewer than twice as many prompts as the topic has texts.
    """
    settings = {
        "sae_key": sae_key,
        "summary": summary,
        "distance": distance,
        "power": power,
        "min_support": min_support,
        "null_topics": null_topics,
        "texts": texts,
        "reference_hash": reference_hash,
    }
    prompts = session.value("prompt_count")
    if null_topics == 0 or prompts < 2 * texts:
        return None
    found = session.value("same_null", **settings)
    if found is not None:
        return int(found)
    null_id = session.next_id("null_id")
    powers, members = random_topics(session.ask("embedding_vectors"), texts, null_topics, distance, power)
    session.append("nulls", pl.DataFrame([{"null_id": null_id, **settings}]))
    session.run("empty_random_means")
    if scan is scan_here:
        sum_random_topics(session, powers, members, sae_key=sae_key, summary=summary, min_support=min_support)
        session.run("store_null", null_id=null_id)
        return null_id
    names = powers.columns[1:]
    for first in range(0, null_topics, TOPICS_PER_SCAN):
        some = names[first : first + TOPICS_PER_SCAN]
        with session.frame("random_powers", powers.select("prompt_id", *some)):
            session.run("make_random_factors", sae_key=sae_key, summary=summary)
        with session.frame("random_members", members.filter(pl.col("name").is_in(some))):
            scan(session, "compute_null", sae_key=sae_key, summary=summary, min_support=min_support)
    session.run("store_null", null_id=null_id)
    return null_id


def sum_random_topics(
    session: Session, powers: pl.DataFrame, members: pl.DataFrame, *, sae_key: int, summary: str, min_support: int
) -> None:
    """Append to `random_means` what sql/compute_null.sql does, by matrix products.

    Args:
        powers, members: the frames of `random_topics`.
    """
    support = session.ask("matching_columns", sae_key=sae_key)["support"].to_numpy()
    eligible = np.flatnonzero(support >= min_support)
    names = powers.columns[1:]
    step = columns_at_once(2 * powers.height)  # those of the members come beside
    for start in range(0, len(names), step):
        some = names[start : start + step]
        mine = members.filter(pl.col("name").is_in(some))
        own = np.zeros((powers.height, len(some)))
        own[mine["prompt_id"].to_numpy(), [some.index(name) for name in mine["name"]]] = 1
        far = powers.select(some).fill_null(0).to_numpy()
        g = np.full((len(support), len(some)), np.nan)
        for first, weights in weight_runs(session, sae_key, summary):
            mass = weights.sum(axis=1)[:, None]
            left = mass - weights @ own
            np.divide(weights @ far, left, out=g[first : first + len(mass)], where=left > 1e-9 * mass)
        centred = g[eligible] - np.nanmean(g[eligible], axis=0) if len(eligible) else g[eligible]
        session.append(
            "random_means",
            pl.DataFrame({
                "topic": np.tile(np.arange(start, start + len(some), dtype=np.int32), len(eligible)),
                "neuron": np.repeat(eligible.astype(np.uint32), len(some)),
                "centred_g": pl.Series(centred.ravel()).fill_nan(None),
            }),
        )  # fmt: skip


def random_topics(
    embeddings: pl.DataFrame, texts: int, topics: int, distance: str, power: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Frames `random_powers` and `random_members` of sql/compute_null.sql.

    A matrix product gives these distances: its error of 1e-3 near 0 does not matter where the near prompts are left out.
    """
    ids = embeddings["prompt_id"].to_numpy()
    vectors = stack_vectors(embeddings["vector"])
    generator = np.random.default_rng(NULL_SEED)
    columns: dict[str, np.ndarray | pl.Series] = {"prompt_id": ids}
    members = []
    for topic in range(topics):
        chosen = generator.choice(len(ids), texts, replace=False)
        cosine = (vectors @ vectors[chosen].T).max(axis=1).astype(np.float64)
        far = np.clip(1 - cosine, 0, None) if distance == "cosine" else np.sqrt(np.clip(2 - 2 * cosine, 0, None))
        powers = far**power
        powers[chosen] = np.nan
        columns[f"null_{topic}"] = pl.Series(powers).fill_nan(None)
        members += [(f"null_{topic}", int(ids[row])) for row in chosen]
    return pl.DataFrame(columns), pl.DataFrame(
        members, schema={"name": pl.String, "prompt_id": pl.UInt32}, orient="row"
    )
