"""Vectors that are kept in memory are those of the file, whoever writes to it; and there is a limit."""

from __future__ import annotations

import subprocess
import sys

import handmade
import numpy as np
import polars as pl
import pytest

import atlas.meaning.vector_products
from atlas.meaning.neuron_vectors import make_neuron_vectors
from atlas.meaning.search import search_topics
from atlas.meaning.vector_memory import VectorMemory
from atlas.meaning.vector_products import multiply_vectors
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.session import Session

PROMPTS, NEURONS, SAES = 120, 12, (0, 1)
TOPIC = handmade.unit_vectors(np.random.default_rng(5), 1)
VALUES = NEURONS * TOPIC.shape[1]  # at most, of an SAE
OTHER_HAND = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as connection:
    connection.execute("update neuron_vectors set vector = list_transform(vector, lambda x: -x)")
"""


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(4)
    raws = [handmade.random_raw(rng, PROMPTS, NEURONS, share=0.4) for _ in SAES]
    return make_store(tmp_path / "x.atlas", raws, handmade.unit_vectors(rng, PROMPTS))


def make_store(path, raws, embeddings):
    store = handmade.make_store(path, raws, embeddings)
    with store.write() as session:
        make_neuron_vectors(session)
    return store


@pytest.fixture
def memory(monkeypatch):
    """A memory of this test's own."""
    kept = VectorMemory()
    monkeypatch.setattr(atlas.meaning.vector_products, "MEMORY", kept)
    return kept


@pytest.fixture
def asked(monkeypatch):
    """The names of the queries that read vectors, as they are asked."""
    names: list[str] = []
    ask = Session.ask

    def listen(session, name, /, **parameters):
        names.append(name)
        return ask(session, name, **parameters)

    monkeypatch.setattr(Session, "ask", listen)
    return names


def multiply(store, keys=SAES, topics=TOPIC):
    with store.read() as session:
        return [own.products for own in multiply_vectors(session, keys, topics)]


def reading(asked):
    """How the vectors were read since it was asked last: inside DuckDB, into memory, or neither."""
    found = [name for name in asked if name in ("vector_products", "vectors_between")]
    asked.clear()
    return found


def test_vectors_are_read_into_memory_the_second_time_and_then_not_at_all(store, memory, asked):
    first = multiply(store)
    assert reading(asked) == ["vector_products"]
    second = multiply(store)
    assert reading(asked) == ["vectors_between"] * len(SAES)
    third = multiply(store)
    assert reading(asked) == []
    for one, other, last in zip(first, second, third, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
        np.testing.assert_array_equal(other, last)


def test_what_another_process_writes_is_noticed(store, memory, asked):
    before = [multiply(store) for _ in range(3)][-1]
    reading(asked)
    subprocess.run([sys.executable, "-c", OTHER_HAND, str(store.path)], check=True)
    for one, other in zip(before, multiply(store), strict=True):
        np.testing.assert_allclose(other, -one, atol=1e-6)
    assert reading(asked) == ["vector_products"]


def test_a_scoring_leaves_the_vectors_in_memory_and_new_vectors_do_not(store, memory, asked):
    before = [multiply(store) for _ in range(3)][-1]
    topics, embed = handmade.make_topics(np.random.default_rng(6), sea=4)
    score_topics(store, topics, embed=embed, config=ScoringConfig(scorer="centroid"))
    reading(asked)
    multiply(store)
    assert reading(asked) == []
    with store.write() as session:
        session._execute("update embeddings set vector = list_transform(vector, lambda x: -x) where prompt_id < 60")
        session.run("drop_neuron_vectors")
        make_neuron_vectors(session)
    reading(asked)
    after = multiply(store)
    assert reading(asked) == ["vector_products"]
    assert all(np.abs(one - other).max() > 0.01 for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("values", "kept"), [(0, 0), (VALUES, 1), (2 * VALUES, 2)])
def test_what_is_over_the_limit_is_multiplied_inside_the_database(store, asked, monkeypatch, values, kept):
    monkeypatch.setattr(atlas.meaning.vector_products, "MEMORY", VectorMemory(values))
    multiply(store)
    multiply(store)
    reading(asked)
    for _ in range(2):
        multiply(store)
        assert reading(asked) == ["vector_products"] * (kept < len(SAES))


def test_another_file_takes_the_place_of_one_that_leaves_no_room(store, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(atlas.meaning.vector_products, "MEMORY", VectorMemory(2 * VALUES))
    other = make_store(
        tmp_path / "y.atlas",
        [handmade.random_raw(np.random.default_rng(9), PROMPTS, NEURONS, share=0.4)],
        handmade.unit_vectors(np.random.default_rng(9), PROMPTS),
    )
    for _ in range(2):
        multiply(store)
        multiply(other, keys=[0])
    reading(asked)
    multiply(other, keys=[0])
    assert reading(asked) == []
    multiply(store)
    assert reading(asked) == ["vector_products"]  # the file that was forgotten begins anew


def test_a_search_finds_the_same_from_memory_for_one_topic_and_for_several(store, memory):
    def search(topics):
        with store.read() as session:
            return search_topics(session, topics, 5, sae=None, by="z")

    topics = {"one": TOPIC.tolist(), "two": (-TOPIC).tolist()}
    alone = [search({"one": topics["one"]}) for _ in range(3)]
    both = search(topics).filter(pl.col("topic") == "one")
    for found in (*alone[1:], both):
        assert found["neuron"].to_list() == alone[0]["neuron"].to_list()
        np.testing.assert_allclose(found["z"], alone[0]["z"], atol=1e-4)
