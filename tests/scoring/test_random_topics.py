"""Standard error, z and rank stability are those of the method, section 3."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from atlas.scoring.config import ScoringConfig
from atlas.scoring.distances import make_distances
from atlas.scoring.random_topics import random_topics, sum_random_topics
from atlas.scoring.score import score_topics
from atlas.scoring.stability import SAMPLE_SEED, compare_samples
from atlas.store.session import scan_here

PROMPTS, NEURONS, TEXTS = 400, 60, 4
SETTINGS = [("mean", "euclidean", 2.0), ("max", "cosine", 1.0), ("count", "euclidean", 1.5)]


@pytest.fixture(scope="module")
def raw():
    return handmade.random_raw(np.random.default_rng(0), PROMPTS, NEURONS)


@pytest.fixture(scope="module")
def vectors():
    return handmade.unit_vectors(np.random.default_rng(1), PROMPTS)


@pytest.fixture(scope="module")
def store(tmp_path_factory, raw, vectors):
    return handmade.make_store(tmp_path_factory.mktemp("uncertainty") / "x.atlas", [raw], vectors)


@pytest.fixture(scope="module")
def topics():
    return handmade.make_topics(np.random.default_rng(2), t=TEXTS)


def scored(store, topics, settings, **more):
    summary, distance, power = settings
    config = ScoringConfig(summary=summary, distance=distance, power=power, min_support=20, **more)
    [scoring_id] = score_topics(store, topics[0], embed=topics[1], config=config)["t"]
    with store.read() as session:
        return scoring_id, session.sql("from scores where scoring_id = $id order by neuron", id=scoring_id)


def weights_and_powers(raw, vectors, topics, settings):
    """w [prompt, neuron] and d ** k [prompt]."""
    summary, distance, power = settings
    chosen = raw[["mean", "max", "count"].index(summary)].astype(np.float64)
    topic = np.stack([np.asarray(vector) for vector in topics[1].vectors.values()])
    far = np.linalg.norm(vectors[:, None] - topic[None], axis=2).min(axis=1).astype(np.float64)
    far = far**2 / 2 if distance == "cosine" else far
    return chosen / chosen.sum(axis=1, keepdims=True), far**power


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_standard_error_is_that_of_a_ratio(store, raw, vectors, topics, settings):
    _, frame = scored(store, topics, settings, null_topics=0)
    w, d = weights_and_powers(raw, vectors, topics, settings)
    with np.errstate(invalid="ignore"):
        g = (w * d[:, None]).sum(axis=0) / w.sum(axis=0)
        se = np.sqrt((w**2 * (d[:, None] - g) ** 2).sum(axis=0)) / w.sum(axis=0)
    known = frame["score"].is_not_null().to_numpy()
    spread = g[known].max() - g[known].min()
    np.testing.assert_allclose(frame["se"].to_numpy()[known], se[known] / spread, rtol=1e-5)
    assert frame.filter(~pl.Series(known))["se"].null_count() == (~known).sum() == 1


def test_the_standard_error_agrees_with_a_bootstrap(store, raw, vectors, topics):
    _, frame = scored(store, topics, SETTINGS[0], null_topics=0)
    w, d = weights_and_powers(raw, vectors, topics, SETTINGS[0])
    known = frame["score"].is_not_null().to_numpy()
    draws = np.random.default_rng(3).multinomial(PROMPTS, np.full(PROMPTS, 1 / PROMPTS), 2000)
    replicates = (draws @ (w * d[:, None]))[:, known] / (draws @ w)[:, known]
    g = frame["g"].to_numpy()[known]
    ratio = frame["se"].to_numpy()[known] * (g.max() - g.min()) / replicates.std(axis=0)
    assert 0.9 < np.median(ratio) < 1.1
    assert ratio.min() > 0.8 and ratio.max() < 1.25


@pytest.mark.parametrize("settings", SETTINGS)
def test_z_is_measured_against_random_topics_without_their_own_prompts(store, raw, vectors, topics, settings):
    _, frame = scored(store, topics, settings, null_topics=16)
    w, _ = weights_and_powers(raw, vectors, topics, settings)
    known = frame["score"].is_not_null().to_numpy()
    embeddings = pl.DataFrame({"prompt_id": range(PROMPTS), "vector": vectors.tolist()})
    powers, members = random_topics(embeddings, TEXTS, 16, *settings[1:])
    nulls = []
    for topic in range(16):
        d = powers[f"null_{topic}"].to_numpy()
        own = members.filter(pl.col("name") == f"null_{topic}")["prompt_id"].to_numpy()
        assert len(set(own)) == TEXTS and np.isnan(d[own]).all()
        rest = np.setdiff1d(np.arange(PROMPTS), own)
        g = (w[rest] * d[rest, None]).sum(axis=0)[known] / w[rest].sum(axis=0)[known]
        nulls.append(g - g.mean())
    g = frame["g"].to_numpy()[known]
    expected = ((g - g.mean()) - np.mean(nulls, axis=0)) / np.std(nulls, axis=0, ddof=1)
    np.testing.assert_allclose(frame["z"].to_numpy()[known], expected, rtol=1e-4, atol=1e-6)


def test_the_null_is_made_once_per_number_of_texts_and_topics_share_it(store, topics):
    scored(store, topics, SETTINGS[0], null_topics=8)
    others, embed = handmade.make_topics(np.random.default_rng(4), same=TEXTS, longer=TEXTS + 1)
    score_topics(store, others, embed=embed, config=ScoringConfig(null_topics=8))
    with store.read() as session:
        counts = session.sql(
            "select texts, count(*) as n from nulls where null_topics = 8 group by texts order by texts"
        )
    assert counts.rows() == [(TEXTS, 1), (TEXTS + 1, 1)]


def test_a_random_topic_is_not_remarkable_and_a_planted_neuron_is(tmp_path):
    rng = np.random.default_rng(5)
    vectors = handmade.unit_vectors(rng, PROMPTS)
    raw = handmade.random_raw(rng, PROMPTS, NEURONS)
    near = np.argsort(np.linalg.norm(vectors - vectors[0], axis=1))[:40]
    raw[:, :, 5] = 0
    raw[:, near, 5] = 1
    store = handmade.make_store(tmp_path / "x.atlas", [raw], vectors)
    topics, embed = handmade.make_topics(rng, t=1)
    embed.vectors["t text 0"] = vectors[0]
    score_topics(store, topics, embed=embed, config=ScoringConfig())
    with store.read() as session:
        z = session.sql("select neuron, z from scores where z is not null")
    assert z.sort("z").item(0, "neuron") == 5 and z["z"].min() < -2
    assert (z.filter(pl.col("neuron") != 5)["z"].abs() < 3).mean() > 0.9


def test_too_few_prompts_for_random_topics_leave_z_empty(tmp_path, raw, vectors):
    few = handmade.make_store(tmp_path / "x.atlas", [raw[:, :30]], vectors[:30])
    topics, embed = handmade.make_topics(np.random.default_rng(6), t=16)
    score_topics(few, topics, embed=embed, config=ScoringConfig(min_support=5))
    with few.read() as session:
        assert session.sql("from scores")["z"].null_count() == NEURONS
        assert session.sql("from nulls").height == 0


@pytest.mark.parametrize("settings", SETTINGS)
def test_rank_stability_is_that_of_bootstrap_samples(store, raw, vectors, topics, settings):
    summary, distance, power = settings
    config = ScoringConfig(summary=summary, distance=distance, power=power)
    [scoring_id] = score_topics(store, topics[0], embed=topics[1], config=config, bootstraps=6)["t"]
    w, d = weights_and_powers(raw, vectors, topics, settings)
    with store.read() as session:
        row = session.ask("scoring", scoring_id=scoring_id).to_dicts()[0]
        score = session.sql("select score from scores where scoring_id = $id order by neuron", id=scoring_id)["score"]
    known = score.is_not_null().to_numpy()
    ranks, overlaps = [], []
    draws = np.random.default_rng(SAMPLE_SEED).multinomial(PROMPTS, np.full(PROMPTS, 1 / PROMPTS), 6)
    own = score.to_numpy()[known]
    for draw in draws:
        g = (draw @ (w * d[:, None]))[known] / (draw @ w)[known]
        ranks.append(spearmanr(-own, g).statistic)
        overlaps.append(len(set(np.argsort(-own)[:20]) & set(np.argsort(g)[:20])) / 20)
    assert row["rank_stability"] == pytest.approx(np.mean(ranks), abs=1e-6)
    assert row["top_overlap"] == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert row["bootstraps"] == 6


def test_the_overlap_of_fewer_than_20_neurons_is_a_share_of_those_there_are(tmp_path, raw, vectors):
    few = handmade.make_store(tmp_path / "x.atlas", [raw[:, :, -6:]], vectors)
    topics, embed = handmade.make_topics(np.random.default_rng(7), t=TEXTS)
    score_topics(few, topics, embed=embed, config=ScoringConfig(null_topics=0), bootstraps=5)
    with few.read() as session:
        assert session.sql("select top_overlap from scorings").item() == 1


def test_a_sample_that_ranks_nothing_has_no_part_in_the_stability(tmp_path, vectors):
    raw = np.zeros((3, PROMPTS, 2), np.float32)
    raw[:, :200, 0], raw[:, 200:, 1] = 1, 1
    same = np.where(np.arange(PROMPTS)[:, None] < 200, vectors[:1], vectors[1:2])
    store = handmade.make_store(tmp_path / "x.atlas", [raw], same)
    topics, embed = handmade.make_topics(np.random.default_rng(7), t=TEXTS)
    score_topics(store, topics, embed=embed, config=ScoringConfig(null_topics=0))
    with store.write() as session:
        make_distances(session, [0])
        draws = np.where(np.arange(PROMPTS) < 200, 1, 0)
        samples = pl.DataFrame({"prompt_id": range(PROMPTS), "sample_0": draws, "sample_1": 0 * draws})
        found = compare_samples(session, 0, 0, samples)
    assert (
        abs(found["rank_stability"]) == 1
    )  # of sample 0 alone: no neuron has a prompt in sample 1, so that all are tied


def test_random_topics_by_matrix_products_are_those_of_the_query(store):
    embeddings = pl.DataFrame({"prompt_id": range(PROMPTS), "vector": [[1.0, 0.0], [0.6, 0.8]] * (PROMPTS // 2)})
    powers, members = random_topics(embeddings, TEXTS, 5, "euclidean", 2.0)
    settings = {"sae_key": 0, "summary": "max"}
    with store.write() as session:
        session.run("empty_random_means")
        sum_random_topics(session, powers, members, min_support=20, **settings)
        found = session.sql("from random_means order by topic, neuron")
        session.run("empty_random_means")
        with session.frame("random_powers", powers), session.frame("random_members", members):
            session.run("make_random_factors", **settings)
            scan_here(session, "compute_null", min_support=20, **settings)
        expected = session.sql("from random_means order by topic, neuron")
    assert found.height == 5 * (NEURONS - 1)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-9, atol=1e-12)


def test_a_random_topic_that_holds_all_of_a_neurons_prompts_says_nothing_of_it(tmp_path, vectors):
    raw = np.zeros((3, PROMPTS, 3), np.float32)
    raw[:, :, 0], raw[:, ::2, 1], raw[:, [4, 7, 9], 2] = 0.3, 0.7, 0.1
    few = handmade.make_store(tmp_path / "x.atlas", [raw], vectors)
    powers = pl.DataFrame(
        {"prompt_id": range(PROMPTS), "null_0": [None if i in (4, 7, 9) else 1.0 + i % 3 for i in range(PROMPTS)]}
    )
    members = pl.DataFrame({"name": ["null_0"] * 3, "prompt_id": [4, 7, 9]}, schema_overrides={"prompt_id": pl.UInt32})
    with few.write() as session:
        for engine in ("products", "query"):
            session.run("empty_random_means")
            if engine == "products":
                sum_random_topics(session, powers, members, sae_key=0, summary="mean", min_support=1)
            else:
                with session.frame("random_powers", powers), session.frame("random_members", members):
                    session.run("make_random_factors", sae_key=0, summary="mean")
                    scan_here(session, "compute_null", sae_key=0, summary="mean", min_support=1)
            found = session.sql("from random_means order by neuron")
            assert found["centred_g"].is_null().to_list() == [False, False, True]
