"""Distances of prompts to topics are those of differences taken in double precision, to the nearest text."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest

import atlas.scoring.distances
from atlas.scoring.distances import make_distances, squared_distances

PROMPTS, DIMENSION = 50, 384
VECTORS = handmade.unit_vectors(np.random.default_rng(0), PROMPTS, DIMENSION)
TEXTS = handmade.unit_vectors(np.random.default_rng(1), 7, DIMENSION)
TOPICS = {3: TEXTS[:1], 12: TEXTS[1:5], 4: TEXTS[5:]}  # topic_id -> texts


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A prompt per vector, and topics of one, four and two texts."""
    raw = handmade.random_raw(np.random.default_rng(2), PROMPTS, 3)
    store = handmade.make_store(tmp_path_factory.mktemp("distances") / "x.atlas", [raw], VECTORS)
    with store.write() as session:
        for topic_id, texts in TOPICS.items():
            session.append("topic_texts", pl.DataFrame({
                "topic_id": [topic_id] * len(texts), "text_id": range(len(texts)), "vector": texts.tolist(),
            }))  # fmt: skip
    return store


@pytest.mark.parametrize("batch", [PROMPTS, 7, 10])
def test_each_topic_has_the_distance_of_every_prompt_to_its_nearest_text(monkeypatch, store, batch):
    monkeypatch.setattr(atlas.scoring.distances, "BATCH", batch)
    with store.read() as session:
        make_distances(session, [12, 3])
        found = session.sql("from distances order by topic_id, prompt_id")
    assert found["topic_id"].to_list() == [3] * PROMPTS + [12] * PROMPTS
    assert found["prompt_id"].to_list() == [*range(PROMPTS)] * 2
    for topic_id in (3, 12):
        far = np.linalg.norm(VECTORS[:, None].astype(float) - TOPICS[topic_id], axis=2).min(axis=1)
        np.testing.assert_allclose(found.filter(pl.col("topic_id") == topic_id)["euclidean"], far, rtol=1e-12)


def test_equal_vectors_are_at_distance_zero_and_nearly_equal_ones_are_not():
    assert (np.diag(squared_distances(VECTORS, VECTORS)) == 0).all()
    step = np.float32(1e-5) * handmade.unit_vectors(np.random.default_rng(3), PROMPTS, DIMENSION)
    near = np.sqrt(np.diag(squared_distances(VECTORS + step, VECTORS)))
    exact = np.linalg.norm((VECTORS + step).astype(float) - VECTORS, axis=1)
    np.testing.assert_allclose(near, exact, rtol=1e-4)
    assert exact.max() < 2e-5
