"""The scores in SQL are those of the method, section 3; topics are stored once and scored once."""

from __future__ import annotations

import itertools
import shutil

import handmade
import numpy as np
import polars as pl
import pytest
import tiny

import atlas.scoring.score
import atlas.store.weights
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.distances import DISTANCES, distance_matrix, make_distances, raise_distances
from atlas.scoring.products import sum_distances
from atlas.scoring.score import score_topics
from atlas.scoring.summaries import SUMMARIES
from atlas.store.file import Store
from atlas.store.session import scan_here
from atlas.texts.prompts import collect_texts

PROMPTS, NEURONS = 30, 12
LOW = ScoringConfig(min_support=5)


RAW = handmade.random_raw(np.random.default_rng(0), PROMPTS, NEURONS)
OTHER = np.ascontiguousarray(RAW[:, :, ::-1])
VECTORS = handmade.unit_vectors(np.random.default_rng(1), PROMPTS)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """For tests that score under settings of their own."""
    return handmade.make_store(tmp_path_factory.mktemp("score") / "x.atlas", [RAW], VECTORS)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return handmade.make_store(tmp_path_factory.mktemp("score") / "y.atlas", [RAW, OTHER], VECTORS).path


@pytest.fixture
def store(untouched, tmp_path):
    """Two SAEs, the second with the neurons of the first in reverse order; nothing is scored."""
    return Store(shutil.copy(untouched, tmp_path / "x.atlas"))


def scores_of(store, *scoring_ids):
    """The scores of each scoring, in order of the neurons."""
    with store.read() as session:
        frames = session.sql("from scores order by neuron").partition_by("scoring_id", as_dict=True)
    found = [frames[scoring_id,].drop("scoring_id") for scoring_id in scoring_ids]
    return found[0] if len(found) == 1 else found


def worked_example(path):
    """d² = [0.2, 1.0, 1.8] and the weights of four neurons over three prompts; totals undo the normalisation."""
    cosines = np.array([0.9, 0.5, 0.1])
    vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    weights = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0, 0, 1], [0, 1, 3]]).T
    totals = np.array([2.0, 8.0, 4.0])
    raw = np.stack([weights * totals[:, None]] * 3)
    return handmade.make_store(path, [raw], vectors, np.stack([totals] * 3))


@pytest.mark.parametrize("summary", SUMMARIES)
def test_the_example_worked_by_hand_comes_out(tmp_path, summary):
    config = ScoringConfig(summary=summary, min_support=1)
    found = score_worked_example(tmp_path, config)
    assert found["g"].to_list() == pytest.approx([0.2, 1.0, 1.8, 1.6], rel=1e-6)
    assert found["score"].to_list() == pytest.approx([1, 0.5, 0, 0.125], abs=1e-6)


def test_a_neuron_below_the_least_support_takes_no_part_in_the_range(tmp_path):
    found = score_worked_example(tmp_path, ScoringConfig(min_support=2))
    assert found["g"].to_list() == pytest.approx([0.2, 1.0, 1.8, 1.6], rel=1e-6)
    assert found["score"].to_list() == [None, 1, None, 0]


def score_worked_example(folder, config):
    store = worked_example(folder / "x.atlas")
    topics, embed = {"t": collect_texts(["here"])}, handmade.Embedder({"here": [1.0, 0.0]})
    [scoring_id] = score_topics(store, topics, embed=embed, config=config)["t"]
    return scores_of(store, scoring_id)


@pytest.mark.parametrize(("summary", "distance", "power"), list(itertools.product(SUMMARIES, DISTANCES, (1, 2, 0.5))))
def test_scores_equal_five_lines_of_numpy(shared_store, rng, summary, distance, power):
    config = ScoringConfig(summary=summary, distance=distance, power=power, min_support=10)
    topics, embed = handmade.make_topics(rng, t=4)
    [scoring_id] = score_topics(shared_store, topics, embed=embed, config=config)["t"]
    found = scores_of(shared_store, scoring_id).with_columns(pl.col("g", "score").fill_null(float("nan")))
    g, score = handmade.reference_scores(
        RAW[handmade.SUMMARIES[summary]], VECTORS, np.stack(list(embed.vectors.values())),
        distance=distance, power=power, min_support=10,
    )  # fmt: skip
    np.testing.assert_allclose(found["g"], g, rtol=1e-5)
    np.testing.assert_allclose(found["score"], score, atol=1e-5)
    assert 1 < np.isnan(score).sum() < NEURONS - 2


def test_a_neuron_that_never_fires_has_no_score_and_spoils_no_other(shared_store, rng):
    topics, embed = handmade.make_topics(rng, silent=3)
    [scoring_id] = score_topics(shared_store, topics, embed=embed, config=ScoringConfig(min_support=1))["silent"]
    found = scores_of(shared_store, scoring_id)
    assert found.row(NEURONS - 1, named=True) == {
        "neuron": NEURONS - 1,
        "g": None,
        "score": None,
        "se": None,
        "z": None,
    }
    assert found["score"].null_count() == 1
    assert (found["score"].min(), found["score"].max()) == (0, 1)


def test_a_prompt_that_is_a_text_of_the_topic_adds_nothing_to_g(tmp_path):
    raw = np.zeros((3, PROMPTS, 3), np.float32)
    raw[:, 3, 0], raw[:, 4, 1], raw[:, :, 2] = 1, 1, 1
    store = handmade.make_store(tmp_path / "x.atlas", [raw], VECTORS)
    embed = handmade.Embedder({"prompt 3": VECTORS[3]})
    score_topics(store, {"t": collect_texts(["prompt 3"])}, embed=embed, config=ScoringConfig(min_support=1))
    found = scores_of(store, 0)
    assert found["g"][0] == 0
    assert found["score"][0] == 1


def test_two_topics_at_once_score_as_one_at_a_time(store, untouched, tmp_path, rng):
    apart = Store(shutil.copy(untouched, tmp_path / "apart.atlas"))
    topics, embed = handmade.make_topics(rng, a=3, b=5)
    ids = score_topics(store, topics, embed=embed, config=LOW)
    alone = {name: score_topics(apart, {name: topics[name]}, embed=embed, config=LOW)[name] for name in ("b", "a")}
    together = scores_of(store, *ids["a"], *ids["b"])
    for one, other in zip(together, scores_of(apart, *alone["a"], *alone["b"]), strict=True):
        for column in ("g", "score"):
            np.testing.assert_allclose(one[column].fill_null(-1), other[column].fill_null(-1), rtol=1e-9)
    assert (together[0]["g"] - together[2]["g"]).abs().max() > 0.1


def test_each_sae_is_scored_by_its_own_activations(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    first, second = scores_of(store, *score_topics(store, topics, embed=embed, config=LOW)["t"])
    assert second["score"].reverse().to_list() == pytest.approx(first["score"].to_list())
    assert first["score"].to_list() != second["score"].to_list()


def test_more_topics_than_fit_one_scan_are_all_scored(monkeypatch, store, rng):
    monkeypatch.setattr(atlas.scoring.score, "TOPICS_PER_SCAN", 2)
    topics, embed = handmade.make_topics(rng, a=2, b=2, c=2)
    ids = score_topics(store, topics, embed=embed, config=ScoringConfig(min_support=1))
    assert sorted(sum(ids.values(), [])) == list(range(6))
    for name, found in zip(topics, scores_of(store, *(of_topic[0] for of_topic in ids.values())), strict=True):
        vectors = np.stack([embed.vectors[text] for text in topics[name].texts])
        g, _ = handmade.reference_scores(RAW[0], VECTORS, vectors, distance="euclidean", power=2, min_support=1)
        np.testing.assert_allclose(found["g"].fill_null(float("nan")), g, rtol=1e-5)


def test_the_same_topic_again_is_neither_embedded_nor_scored(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    first = score_topics(store, topics, embed=embed, config=LOW)
    before = store.path.read_bytes()
    reordered = {"t": collect_texts(list(reversed(topics["t"].texts)))}
    assert score_topics(store, reordered, embed=embed, config=LOW) == first
    assert embed.calls == 1
    with store.read() as session:
        assert session.sql("select count(*) from scores").item() == 2 * NEURONS
        assert session.sql("select count(*) from scorings").item() == 2
    assert len(before) == store.path.stat().st_size


def test_other_settings_make_a_second_scoring_and_going_back_makes_the_first_current(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    first = score_topics(store, topics, embed=embed, config=LOW)
    second = score_topics(store, topics, embed=embed, config=ScoringConfig(min_support=5, summary="max"))
    assert set(first["t"]).isdisjoint(second["t"])
    assert current(store) == second["t"]
    assert score_topics(store, topics, embed=embed, config=LOW) == first
    assert current(store) == first["t"]
    assert embed.calls == 1


def current(store):
    with store.read() as session:
        return session.sql("select scoring_id from scorings where is_current order by 1")["scoring_id"].to_list()


def test_other_texts_under_a_known_name_are_refused_and_nothing_changes(store, rng):
    topics, embed = handmade.make_topics(rng, t=3, u=2)
    first = score_topics(store, {"t": topics["t"]}, embed=embed, config=LOW)
    with pytest.raises(StoreError, match="topic 't' has 3 other texts already: choose another name, or --replace"):
        score_topics(store, {"u": topics["u"], "t": topics["u"]}, embed=embed, config=LOW)
    with store.read() as session:
        assert session.sql("select name from topics")["name"].to_list() == ["t"]
    assert score_topics(store, {"t": topics["t"]}, embed=embed, config=LOW) == first


def test_a_topic_that_another_process_scores_meanwhile_is_not_mixed_with_its_texts(store, rng):
    (mine, embed_mine), (theirs, embed_theirs) = (handmade.make_topics(rng, sea=count) for count in (3, 4))

    def embed(texts):
        score_topics(store, theirs, embed=embed_theirs, config=LOW)
        return embed_mine(texts)

    with pytest.raises(StoreError, match="topic 'sea' was scored by another process meanwhile: run the same command"):
        score_topics(store, mine, embed=embed, config=LOW)
    found = store.query("select x.text, (select count(*) from scorings) as scorings from topic_texts as x")
    assert sorted(found["text"]) == sorted(theirs["sea"].texts)
    assert found["scorings"].unique().to_list() == [2]


def test_replacing_a_topics_texts_drops_its_scorings_and_no_others(store, rng):
    topics, embed = handmade.make_topics(rng, t=3, u=2)
    old = score_topics(store, topics, embed=embed, config=LOW)
    kept = scores_of(store, *old["u"])
    new = score_topics(store, {"t": topics["u"]}, embed=embed, config=LOW, replace=True)
    with store.read() as session:
        texts = session.sql("select text from topic_texts join topics using (topic_id) where name = 't'")
        stored = session.sql("select distinct scoring_id from scores order by 1")["scoring_id"].to_list()
    assert sorted(texts["text"]) == sorted(topics["u"].texts)
    assert stored == sorted(old["u"] + new["t"])
    assert all(a.equals(b) for a, b in zip(scores_of(store, *old["u"]), kept, strict=True))
    assert scores_of(store, *new["t"])[0]["g"].to_list() == pytest.approx(kept[0]["g"].to_list())


def test_a_topic_with_fewer_or_more_of_the_same_texts_is_another_topic(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    score_topics(store, topics, embed=embed, config=LOW)
    fewer = {"t": collect_texts(topics["t"].texts[:2])}
    with pytest.raises(StoreError, match="topic 't' has 3 other texts already"):
        score_topics(store, fewer, embed=embed, config=LOW)


def test_too_few_neurons_to_compare_is_said_and_nothing_is_stored(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    with pytest.raises(
        AtlasError, match="topic 't': 0 neurons fired on 31 or more prompts, so scores cannot be told apart"
    ):
        score_topics(store, topics, embed=embed, config=ScoringConfig(min_support=PROMPTS + 1))
    with store.read() as session:
        assert session.sql("select (select count(*) from topics) + (select count(*) from scorings)").item() == 0


@pytest.mark.parametrize(
    ("fired_on", "message"),
    [
        ([0, PROMPTS, 2, 0], "1 neurons fired on 5 or more prompts, so"),
        ([PROMPTS] * 4, "4 neurons fired on 5 or more prompts and all are equal, so"),
    ],
    ids=["one neuron", "all equal"],
)
def test_neurons_that_cannot_be_told_apart_are_an_error(tmp_path, rng, fired_on, message):
    raw = np.zeros((3, PROMPTS, 4), np.float32)
    for neuron, prompts in enumerate(fired_on):
        raw[:, :prompts, neuron] = 1
    topics, embed = handmade.make_topics(rng, t=3)
    with pytest.raises(AtlasError, match=message):
        score_topics(handmade.make_store(tmp_path / "x.atlas", [raw], VECTORS), topics, embed=embed, config=LOW)


def test_scorings_over_other_prompts_are_no_longer_current_and_new_ones_take_their_place(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    old = score_topics(store, topics, embed=embed, config=LOW)
    finish_building(store, reference_hash="second")
    assert current(store) == []
    with store.read() as session:
        assert session.sql("from neuron_scores").height == 0
        assert session.sql("from top_neurons('t', 3)").height == 0
    new = score_topics(store, topics, embed=embed, config=LOW)
    assert set(new["t"]).isdisjoint(old["t"])
    assert current(store) == new["t"]
    assert embed.calls == 1
    with store.read() as session:
        assert session.sql("from top_neurons('t', 3, scoring := 0)").height == 3


def test_scorings_stay_current_when_the_prompts_are_the_same(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    ids = score_topics(store, topics, embed=embed, config=LOW)
    finish_building(store, reference_hash="first")
    assert current(store) == ids["t"]


def finish_building(store, *, reference_hash):
    with store.write() as session:
        session.run("mark_building", reference_hash=reference_hash)
        session.run("mark_complete")


def test_one_sae_can_be_scored_alone_and_the_other_later(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    alone = score_topics(store, topics, embed=embed, config=LOW, sae_keys=[1])["t"]
    assert len(alone) == 1
    both = score_topics(store, topics, embed=embed, config=LOW)["t"]
    assert both[1:] == alone
    first, second = scores_of(store, *both)
    assert second["score"].reverse().to_list() == pytest.approx(first["score"].to_list())


def test_an_unknown_sae_key_is_refused(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    with pytest.raises(UnknownName, match="unknown SAE key '7': known are"):
        score_topics(store, topics, embed=embed, config=LOW, sae_keys=[7])


def test_an_unfinished_atlas_is_not_scored(store, rng):
    topics, embed = handmade.make_topics(rng, t=3)
    with store.write() as session:
        session.run("mark_building", reference_hash="second")
    with pytest.raises(StoreError, match=r"is unfinished \(0 pieces to go\): run the same `atlas build` command again"):
        score_topics(store, topics, embed=embed, config=LOW)
    assert embed.calls == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"summary": "sum"}, UnknownName, "unknown summary 'sum': known are"),
        ({"distance": "euclid"}, UnknownName, "unknown distance 'euclid': known are euclidean"),
        ({"power": 0}, AtlasError, "power 0 is not positive"),
        ({"power": float("nan")}, AtlasError, "power nan is not positive"),
        ({"min_support": 0}, AtlasError, "min_support 0 is below 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ScoringConfig(**settings)


def test_a_built_atlas_is_scored_by_the_distances_of_its_encoder(atlas_store, encoder):
    topics = {"sea": collect_texts(tiny.SEA), "medicine": collect_texts(tiny.MEDICINE)}
    score_topics(atlas_store, topics, embed=lambda texts: embed_frame(encoder, texts), config=LOW)
    with atlas_store.read() as session:
        best = session.sql("select neuron from top_neurons('sea', 1, sae := 'heads')").item()
        why = session.ask("why", topic="sea", neuron=best, sae="heads", scorer="distance")
        nearest = session.sql("from why('sea', $n, sae := 1) order by distance limit 1", n=best)["prompt_id"].item()
    vectors, sea = encoder.embed(tiny.PROMPTS), encoder.embed(tiny.SEA)
    expected = np.linalg.norm(vectors[:, None] - sea[None], axis=2).min(axis=1)
    np.testing.assert_allclose(why["distance"], expected[why["prompt_id"].to_numpy()], atol=1e-4)
    assert 15 <= nearest < 30  # the prompts about the sea


def scored_apart(folder, vectors, texts, raw=RAW, **settings):
    """The scores of a topic with these texts' embeddings, in an atlas of its own."""
    store = handmade.make_store(folder / "apart.atlas", [raw], vectors)
    embed = handmade.Embedder({f"text {i}": vector for i, vector in enumerate(texts)})
    config = ScoringConfig(**{"min_support": 5, **settings})
    [scoring_id] = score_topics(store, {"t": collect_texts(list(embed.vectors))}, embed=embed, config=config)["t"]
    return scores_of(store, scoring_id)


def one_meaning(noise):
    """Embeddings of prompts that mean the same, each off by so much in a direction of its own."""
    step = handmade.unit_vectors(np.random.default_rng(3), PROMPTS)
    return (VECTORS[:1] + np.float32(noise) * step).astype(np.float32)


@pytest.mark.parametrize("noise", [0, 1e-7, 1e-6])
@pytest.mark.parametrize(("distance", "power"), [("euclidean", 2), ("euclidean", 1), ("cosine", 1), ("cosine", 0.5)])
@pytest.mark.parametrize("topic", ["far", "the same"])
def test_scores_are_never_made_of_rounding(tmp_path, noise, distance, power, topic):
    texts = VECTORS[5:6] if topic == "far" else VECTORS[:1]
    with pytest.raises(
        AtlasError, match="neurons fired on 5 or more prompts and all are equal, so scores cannot be told"
    ):
        scored_apart(tmp_path, one_meaning(noise), texts, distance=distance, power=power)


def test_prompts_that_differ_a_little_are_scored(tmp_path):
    found = scored_apart(tmp_path, one_meaning(1e-3), VECTORS[5:6])
    assert (found["score"].min(), found["score"].max()) == (0, 1)
    assert found["se"].max() < 10


def test_a_large_power_is_scored_as_its_formula_says_and_one_that_overflows_is_refused(tmp_path):
    found = scored_apart(tmp_path, VECTORS, VECTORS[5:7], power=200).with_columns(
        pl.col("score").fill_null(float("nan"))
    )
    _, score = handmade.reference_scores(
        RAW[0], VECTORS.astype(np.float64), VECTORS[5:7].astype(np.float64), distance="euclidean", power=200, min_support=5
    )  # fmt: skip
    np.testing.assert_allclose(found["score"], score, atol=1e-6)
    for power in (500, float("inf")):
        with pytest.raises(AtlasError, match=f"power {power} is above 256, where distances overflow: give 1 or 2"):
            ScoringConfig(power=power)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers_give_no_scores(tmp_path, value):
    raw = RAW.copy()
    raw[0, raw[2].argmax(axis=0)[0], 0] = value
    with pytest.raises(
        AtlasError, match="its distance scores are not finite numbers, so the activations in the atlas are"
    ):
        scored_apart(tmp_path, VECTORS, VECTORS[5:7], raw=raw)


def test_a_neuron_that_fired_on_one_prompt_has_a_score_and_no_error(tmp_path):
    raw = RAW.copy()
    raw[:, 1:, 0] = 0
    raw[:, 0, 0] = 1
    found = scored_apart(tmp_path, VECTORS, VECTORS[5:7], raw=raw, min_support=1)
    assert found["score"][0] is not None and found["se"][0] is None
    assert found["se"].null_count() == 2  # and the one that never fires


def test_random_topics_that_do_not_differ_give_no_z(tmp_path):
    vectors = np.where(np.arange(PROMPTS)[:, None] % 2, VECTORS[:1], VECTORS[1:2])
    raw = np.zeros((3, PROMPTS, 3), np.float32)
    raw[:, :, 0], raw[:, ::2, 1], raw[:, 1::2, 2] = 1, 1, 1
    z = scored_apart(tmp_path, vectors, VECTORS[1:2], raw=raw, null_topics=8)["z"].to_list()
    assert z[0] is None  # neuron 0 lies in the middle under every random topic


@pytest.mark.parametrize("many", [3, 20])
def test_many_topics_at_once_have_the_scores_of_five_lines_of_numpy(shared_store, rng, many):
    topics, embed = handmade.make_topics(rng, **{f"{many} {i}": 1 + i % 4 for i in range(many)})
    before = embed.calls
    ids = score_topics(shared_store, topics, embed=embed, config=ScoringConfig(min_support=10, null_topics=4))
    assert embed.calls == before + 1
    for name, [scoring_id] in ids.items():
        texts = np.stack([embed.vectors[text] for text in topics[name].texts])
        g, score = handmade.reference_scores(RAW[0], VECTORS, texts, distance="euclidean", power=2, min_support=10)
        found = scores_of(shared_store, scoring_id).fill_null(float("nan"))
        np.testing.assert_allclose(found["g"], g, rtol=1e-5)
        np.testing.assert_allclose(found["score"], score, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 50])
@pytest.mark.parametrize("summary", SUMMARIES)
def test_matrix_products_give_the_sums_of_the_query(monkeypatch, shared_store, rng, summary, rows):
    monkeypatch.setattr(atlas.store.weights, "ROWS", rows)
    topics, embed = handmade.make_topics(rng, **{f"{summary} {rows} {i}": 2 for i in range(3)})
    config = ScoringConfig(summary=summary, min_support=5, null_topics=0)
    score_topics(shared_store, topics, embed=embed, config=config)
    with shared_store.read() as session:
        ids = session.sql("select topic_id from topics where name in (select unnest($names)) order by topic_id desc",
                          names=list(topics))["topic_id"].to_list()  # fmt: skip
        with session.frame("wanted", pl.DataFrame({"topic_id": ids})):
            make_distances(session, ids)
            session.run("make_factors", sae_key=0, distance="cosine", power=1.5, summary=summary)
            session.run("pivot_factors")
            scan_here(session, "sum_distances", sae_key=0, summary=summary)
        expected = session.sql("from sums where wd <> 0 order by topic_id, neuron")
        powers = raise_distances(distance_matrix(session, ids), "cosine", 1.5)
        sum_distances(session, powers, ids, sae_key=0, summary=summary)
        found = session.sql("from sums where wd <> 0 order by topic_id, neuron")
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-12)


def test_topics_of_the_transactions_before_an_error_stay_and_those_of_its_own_do_not(monkeypatch, store, rng):
    monkeypatch.setattr(atlas.scoring.score, "TOPICS_PER_TRANSACTION", 2)
    topics, embed = handmade.make_topics(rng, a=2, b=2, c=2, d=2)
    stored = atlas.scoring.score._store_scores

    def fail_for_d(session, ids, *arguments):
        if "d" in ids:
            raise AtlasError("stopped")
        stored(session, ids, *arguments)

    with monkeypatch.context() as patch, pytest.raises(AtlasError, match="stopped"):
        patch.setattr(atlas.scoring.score, "_store_scores", fail_for_d)
        score_topics(store, topics, embed=embed, config=LOW)
    with store.read() as session:
        assert session.sql("select name from topics order by name")["name"].to_list() == ["a", "b"]
    ids = score_topics(store, topics, embed=embed, config=LOW)
    assert sorted(sum(ids.values(), [])) == list(range(8))
