"""How well a ranking holds over bootstrap samples of the prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from atlas.store.session import Scan, Session, scan_here

SAMPLE_SEED = 0


def measure_stability(
    session: Session, scoring_ids: Sequence[int], *, bootstraps: int, topic_ids: Sequence[int], scan: Scan = scan_here
) -> pl.DataFrame:
    """Store and give how well the rankings of scorings hold over bootstrap samples of the prompts.

    Needs the temporary table `distances` of their topics (atlas.scoring.distances).

    Returns:
        A row per scoring: scoring_id, rank_stability (mean Spearman correlation), top_overlap (share of the 20 best).
    """
    prompts = session.ask("embedding_vectors")["prompt_id"].to_numpy()
    generator = np.random.default_rng(SAMPLE_SEED)
    draws = generator.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), bootstraps)
    samples = pl.DataFrame({"prompt_id": prompts, **{f"sample_{i}": draw for i, draw in enumerate(draws)}})
    rows = []
    for scoring_id, topic_id in zip(scoring_ids, topic_ids, strict=True):
        found = compare_samples(session, scoring_id, topic_id, samples, scan=scan)
        session.run("store_stability", scoring_id=scoring_id, bootstraps=bootstraps, **found)
        rows.append({"scoring_id": scoring_id, **found})
    return pl.DataFrame(rows)


def compare_samples(
    session: Session, scoring_id: int, topic_id: int, samples: pl.DataFrame, *, scan: Scan = scan_here
) -> dict[str, float]:
    """How well a scoring's ranking holds over samples of the prompts: rank_stability and top_overlap.

    Args:
        session: one that has the temporary table `distances` of the topic.
        scoring_id: the scoring.
        topic_id: its topic.
        samples: the frame of sql/compute_stability.sql.
        scan: runs the query that reads the activations.
    """
    scoring = session.ask("scoring", scoring_id=scoring_id).to_dicts()[0]
    settings = {name: scoring[name] for name in ("sae_key", "summary", "distance", "power")}
    ranking = session.ask("ranking", scoring_id=scoring_id)
    with session.frame("samples", samples), session.frame("ranking", ranking):
        scan(session, "compute_stability", topic_id=topic_id, **settings)
    return session.ask("measured_stability").to_dicts()[0]
