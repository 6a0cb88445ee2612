"""Scorer centroid is that of section 8 of the method; what is searched for is what it would store."""

from __future__ import annotations

import shutil
from functools import partial

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest
import tiny
from command import run
from polars.testing import assert_frame_equal
from test_degenerate import ACTIVATIONS, CASES, EMBEDDINGS, TOPICS, odd_numbers

import atlas
import atlas.meaning.vector_products
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.meaning.search import search_topics
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

PROMPTS, NEURONS = 250, 30
RNG = np.random.default_rng(3)
RAW = handmade.random_raw(RNG, PROMPTS, NEURONS, share=0.1)
VECTORS = handmade.unit_vectors(RNG, PROMPTS)
SETS, EMBED = handmade.make_topics(RNG, one=1, five=5, twelve=12)
LEAST = (20, 25)  # min_support


def reference(topic, least):
    """Section 8 in six lines: g, score, standard error and z of every neuron, NaN where there is none."""
    texts = np.stack([EMBED.vectors[text] for text in SETS[topic].texts]).astype(np.float64)
    d = ((VECTORS[:, None].astype(np.float64) - texts[None]) ** 2).sum(axis=2).mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.nan_to_num(RAW[0] / RAW[0].sum(axis=1, keepdims=True, dtype=np.float64))
        g = (w * d[:, None]).sum(axis=0) / w.sum(axis=0)
        se = np.sqrt((w**2 * (d[:, None] - g) ** 2).sum(axis=0)) / w.sum(axis=0)
        vectors = w.T @ VECTORS / w.sum(axis=0)[:, None]
    good = (RAW[2] > 0).sum(axis=0) >= least
    width = g[good].max() - g[good].min()
    off = vectors - vectors[good].mean(axis=0)
    sd = 2 * np.sqrt(np.einsum("nd,de,ne->n", off, np.cov(VECTORS.T, bias=True), off) / len(texts))
    z = -2 * off @ (texts.mean(axis=0) - VECTORS.mean(axis=0)) / sd
    return g, *(np.where(good, x, np.nan) for x in (1 - (g - g[good].min()) / width, se / width, z))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Scored by both scorers; the current scorings by centroid are those of the first of LEAST."""
    store = handmade.make_store(tmp_path_factory.mktemp("centroids") / "x.atlas", [RAW], VECTORS)
    score_topics(store, SETS, embed=EMBED, config=ScoringConfig())
    for least in reversed(LEAST):
        score_topics(store, SETS, embed=EMBED, config=ScoringConfig(scorer="centroid", min_support=least))
    return store


@pytest.mark.parametrize("least", LEAST)
@pytest.mark.parametrize("topic", SETS)
def test_g_score_and_z_are_those_of_the_method(store, topic, least):
    found = store.query(
        "select s.* from scores s join scorings g using (scoring_id) join topics t using (topic_id) "
        f"where t.name = '{topic}' and g.scorer = 'centroid' and g.min_support = {least} order by neuron"
    )
    g, score, _, z = reference(topic, least)
    assert 2 <= np.isfinite(score).sum() < NEURONS - 1
    for column, expected in (("g", g), ("score", score), ("z", z)):
        values = found[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
        np.testing.assert_allclose(values, expected, atol=2e-5 if column == "g" else 2e-4, rtol=1e-3)
    assert found["se"].null_count() == NEURONS


def test_one_text_gives_the_scores_of_the_scan(store):
    sql = (
        "select s.neuron, s.g, s.score from scores s join scorings g using (scoring_id) join topics t using (topic_id) "
        "where t.name = 'one' and g.is_current and g.scorer = '{}' order by neuron"
    )
    one, other = (store.query(sql.format(scorer)) for scorer in ("distance", "centroid"))
    for column, least in (("g", 1e-5), ("score", 1e-4)):
        np.testing.assert_allclose(*(f[column].cast(pl.Float64).fill_null(-1) for f in (one, other)), atol=least)


@pytest.mark.parametrize("topic", SETS)
def test_top_and_why_show_the_exact_error_and_why_sums_to_g(store, topic):
    opened = atlas.Atlas(store)
    g, score, se, z = reference(topic, LEAST[0])
    top = opened.top(topic, NEURONS, scorer="centroid")
    assert top["neuron"].to_list() == np.argsort(z)[: len(top)].tolist()
    np.testing.assert_allclose(top["se"], se[top["neuron"]], rtol=1e-3)
    many = opened.top_many([topic], NEURONS, scorer="centroid")
    np.testing.assert_allclose(many["se"], top["se"], rtol=1e-9)
    for neuron in top["neuron"].head(3):
        why = opened.why(topic, neuron, scorer="centroid")
        assert why["contribution"].sum() == pytest.approx(g[neuron], rel=1e-5)
        assert why["weight"].sum() == pytest.approx(1, rel=1e-5)
        np.testing.assert_allclose(why["weight"] * why["distance"] ** 2, why["contribution"], rtol=1e-5)
        for column, expected in (("score", score), ("se", se), ("z", z)):
            assert why[column].unique().item() == pytest.approx(expected[neuron], rel=1e-3, abs=1e-4)
    assert opened.top(topic, 3, scorer="centroid", by="score")["neuron"].to_list() == np.argsort(-score)[:3].tolist()


def test_why_is_of_scorers_that_are_made_of_prompts_alone(store):
    with pytest.raises(UnknownName, match="scorer that is made of prompts 'contrast': known are centroid, distance"):
        atlas.Atlas(store).why("one", 3, scorer="contrast")
    assert atlas.Atlas(store).why("one", 3)["scoring_id"].unique().to_list() == [0]


def test_the_signals_of_a_neuron_stand_side_by_side(store):
    found = store.query("select * from neuron_signals where topic = 'five' and score is not null order by neuron")
    _, score, _, z = reference("five", LEAST[0])
    np.testing.assert_allclose(found["centroid"], score[found["neuron"]], atol=2e-4)
    np.testing.assert_allclose(found["centroid_z"], z[found["neuron"]], rtol=1e-3, atol=1e-3)
    assert found["z"].null_count() == 0


@pytest.mark.parametrize(("name", "value"), [("summary", "max"), ("distance", "cosine"), ("power", 1)])
def test_what_vectors_are_not_kept_for_is_refused(name, value):
    with pytest.raises(AtlasError, match=f"scorer centroid goes by {name} .*, not {value}"):
        ScoringConfig(scorer="centroid", **{name: value})


@pytest.mark.parametrize("topic", SETS)
@pytest.mark.parametrize("by", ["z", "score"])
def test_a_search_finds_what_the_scorer_would_store(store, topic, by):
    vectors = [EMBED.vectors[text] for text in SETS[topic].texts]
    with store.read() as session:
        found = search_topics(session, {topic: vectors}, 6, sae=None, by=by)
    expected = atlas.Atlas(store).top(topic, 6, scorer="centroid", by=by)
    assert found["neuron"].to_list() == expected["neuron"].to_list()
    for column in ("g", "score", "z"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-3, atol=1e-4)
    assert found["topic"].unique().to_list() == [topic]


@pytest.mark.parametrize("by", ["z", "score"])
@pytest.mark.parametrize("sae", ["0", None])
@pytest.mark.parametrize("values", [1 << 24, 40])
def test_a_search_for_several_topics_gives_each_its_own(store, by, sae, values, monkeypatch):
    monkeypatch.setattr(atlas.meaning.vector_products, "VALUES", values)  # runs of a few neurons too
    vectors = {name: [EMBED.vectors[text] for text in texts.texts] for name, texts in SETS.items()}
    with store.read() as session:
        both = search_topics(session, vectors, 4, sae=sae, by=by)
        assert both["topic"].unique(maintain_order=True).to_list() == list(vectors)
        for name, own in vectors.items():
            alone = search_topics(session, {name: own}, 4, sae=sae, by=by)
            assert_frame_equal(
                both.filter(pl.col("topic") == name), alone, check_dtypes=False, abs_tol=1e-5, rel_tol=1e-5
            )


@pytest.mark.parametrize(
    "spoil",
    [
        "list_transform(vector, lambda x: 'nan'::float)",
        "vector[:3]",
        "[null]::float[]",
        "[]",
        "null",
        "list_concat(vector, [1])",
    ],
)
def test_a_vector_that_is_none_is_damage_in_one_line(store, tmp_path, spoil):
    path = tmp_path / "x.atlas"
    shutil.copy(store.path, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"update neuron_vectors set vector = {spoil} where neuron = 3")
    spoiled = Store(path)
    texts = [EMBED.vectors[text] for text in SETS["five"].texts]
    said = r"is damaged .*(of another width|is no number)"
    for topics in ({"five": texts}, {"five": texts, "again": texts}):
        with pytest.raises(StoreError, match=said) as caught, spoiled.read() as session:
            search_topics(session, topics, 3, sae=None, by="z")
        assert "\n" not in str(caught.value)
    more, embed = handmade.make_topics(RNG, more=3)
    with pytest.raises(AtlasError, match="is damaged|are not finite numbers"):
        score_topics(spoiled, more, embed=embed, config=ScoringConfig(scorer="centroid"))


@pytest.mark.parametrize(("activations", "embeddings"), dict.fromkeys(CASES))
def test_whatever_is_stored_is_a_number(tmp_path, activations, embeddings):
    raw = ACTIVATIONS[activations]
    raw = np.stack([raw[0], raw[1], np.where(raw[2] > 0, np.maximum(1, raw[2].clip(0, 9)), 0)])
    store = handmade.make_store(tmp_path / "x.atlas", [raw], EMBEDDINGS[embeddings])
    for name, topic in TOPICS.items():
        for least in (1, 20):
            embed = handmade.Embedder({f"{name} {least} {i}": vector for i, vector in enumerate(topic)})
            config = ScoringConfig(scorer="centroid", min_support=least)
            try:
                score_topics(store, {f"{name} {least}": collect_texts(list(embed.vectors))}, embed=embed, config=config)
            except AtlasError as error:
                assert "cannot be told apart" in str(error) and "\n" not in str(error)
    assert odd_numbers(store) == []
    store.check()


@pytest.fixture(scope="module")
def searched(built_atlas, encoder):
    """The frame that a search of the built atlas is to give, by the scorer."""
    return partial(embed_frame, encoder)


def test_words_find_neurons_and_store_nothing(built_atlas, tmp_path, searched):
    path = tmp_path / "x.atlas"
    shutil.copy(built_atlas, path)
    before = path.read_bytes()
    code, stdout, stderr = run("search", path, *tiny.SEA, "-n", "3", "--format", "json")
    assert (code, stderr) == (0, "")
    assert path.read_bytes() == before
    found = pl.read_json(stdout.encode())
    score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=searched, config=ScoringConfig(scorer="centroid"))
    expected = atlas.open(path).top("sea", 3, scorer="centroid", by="z")
    assert found["neuron"].to_list() == expected["neuron"].to_list()
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-3)
    file = tmp_path / "sea.txt"
    file.write_text("\n".join(tiny.SEA))
    again = pl.read_json(run("search", path, "--file", file, "-n", "3", "--format", "json")[1].encode())
    numbers = [
        "z",
        "score",
        "g",
    ]  # by vectors that are in memory by now: multiplied elsewhere, they differ in the seventh digit
    assert again.drop(numbers).equals(found.drop(numbers))
    np.testing.assert_allclose(again.select(numbers).to_numpy(), found.select(numbers).to_numpy(), rtol=1e-5)
    table = run("search", path, *tiny.SEA, "-n", "3")[1].splitlines()
    assert table[0].split() == ["sae_id", "rank", "neuron", "z", "score", "support", "fires_on", "top_tokens"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one TEXT or more, or --file FILE"),
        (["a boat", "--by", "luck"], "unknown order 'luck': known are score, z"),
        (["a boat", "--sae-id", "none"], "unknown SAE 'none'"),
        (["  "], "the search: no text in 1 rows, give at least one"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(built_atlas, arguments, said):
    code, stdout, stderr = run("search", built_atlas, *arguments)
    assert code in (1, 2) and stdout == ""
    assert said in stderr
