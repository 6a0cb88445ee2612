"""The macros and views that users call, from any DuckDB client; two topics and two SAEs, so that none can be mixed up."""

from __future__ import annotations

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest

from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics

PROMPTS, NEURONS = 25, 10
RNG = np.random.default_rng(5)
RAWS = [handmade.random_raw(RNG, PROMPTS, NEURONS), handmade.random_raw(RNG, PROMPTS, NEURONS + 3)]
VECTORS = handmade.unit_vectors(RNG, PROMPTS)
TOPICS, EMBED = handmade.make_topics(RNG, fire=3, ice=4)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scorings 0 and 1 are fire and ice under SAE 0, 2 and 3 under SAE 1; 4 to 7 are older, by cosine and largest value."""
    store = handmade.make_store(tmp_path_factory.mktemp("macros") / "x.atlas", RAWS, VECTORS)
    for config in (
        ScoringConfig(min_support=5),
        ScoringConfig(min_support=1, summary="max", distance="cosine", power=1),
    ):
        score_topics(store, TOPICS, embed=EMBED, config=config)
    score_topics(store, TOPICS, embed=EMBED, config=ScoringConfig(min_support=5))
    return store.path


@pytest.fixture(scope="module")
def ask(scored):
    """Any DuckDB client, without atlas."""
    with duckdb.connect(str(scored), read_only=True) as connection:
        yield lambda sql: connection.sql(sql).pl()


def test_the_fixture_scored_as_its_docstring_says(ask):
    rows = ask(
        "select scoring_id, name, sae_key, summary, is_current from scorings join topics using (topic_id) order by all"
    )
    assert rows.rows() == [
        (i, ("fire", "ice")[i % 2], i // 2 % 2, ("mean", "max")[i // 4], i < 4) for i in range(8)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "scorings"),
    [
        ("top_neurons('fire', 3)", [0, 2]),
        ("top_neurons('ice', 3)", [1, 3]),
        ("top_neurons('ice', 3, sae := 'sae-1')", [3]),
        ("top_neurons('ice', 3, sae := '1')", [3]),
        ("top_neurons('ice', 3, sae := 0)", [1]),
        ("top_neurons('ice', 3, sae := 'r')", []),
        ("top_neurons('fire', 3, scoring := 4)", [4]),
        ("top_neurons('fire', 3, scoring := 5)", []),
        ("top_neurons('name', 3)", []),
        ("why('fire', 2)", [0, 2]),
        ("why('ice', 2, sae := 'sae-0')", [1]),
        ("why('ice', 2, sae := 1)", [3]),
        ("why('ice', 2, scoring := 7)", [7]),
        ("why('wind', 2)", []),
    ],
)
def test_parameters_choose_topic_sae_and_scoring(ask, call, scorings):
    assert ask(f"select distinct scoring_id from {call} order by 1")["scoring_id"].to_list() == scorings


@pytest.mark.parametrize("scoring", range(8))
@pytest.mark.parametrize("by", ["score", "z", None])
def test_top_neurons_are_the_highest_scores_or_lowest_z_in_order(ask, scoring, by):
    topic = ("fire", "ice")[scoring % 2]
    every = ask(f"from scores where scoring_id = {scoring} and score is not null")
    assert every["z"].null_count() == 0, "where there is a z, it is the order when none is named"
    order = ["score"] if by == "score" else ["z"]
    expected = every.sort([*order, "neuron"], descending=[by == "score", False]).head(4)
    named = "" if by is None else f", by := '{by}'"
    found = ask(f"from top_neurons('{topic}', 4, scoring := {scoring}{named})")
    for column in ("neuron", "score", "g"):
        assert found[column].to_list() == expected[column].to_list()
    assert found["rank"].to_list() == [1, 2, 3, 4]
    assert found["topic"].unique().to_list() == [topic]


def test_top_neurons_come_with_their_support_and_what_they_write(ask):
    for row in ask("from top_neurons('fire', 50)").iter_rows(named=True):
        raw = RAWS[int(row["sae_id"][-1])]
        assert row["support"] == (raw[2, :, row["neuron"]] > 0).sum() >= 5
        assert row["top_tokens"] == [f" t{row['neuron']}"]
        assert row["release"] == "r"


def test_more_neurons_than_there_are_gives_all_that_have_a_score(ask):
    found = ask("from top_neurons('fire', 99)").group_by("scoring_id").len().sort("scoring_id").rows()
    assert found == [(key * 2, int(((RAWS[key][2] > 0).sum(axis=0) >= 5).sum())) for key in (0, 1)]


@pytest.mark.parametrize("scoring", range(8))
def test_the_contributions_of_why_sum_to_g_and_its_weights_to_one(ask, scoring):
    topic = ("fire", "ice")[scoring % 2]
    scores = ask(f"select neuron, g from scores where scoring_id = {scoring} order by neuron").rows()
    for neuron, g in scores[:-1]:
        found = ask(f"from why('{topic}', {neuron}, scoring := {scoring})")
        assert found["contribution"].sum() == pytest.approx(g, rel=1e-5)
        assert found["weight"].sum() == pytest.approx(1, rel=1e-5)
        assert found["weight"].is_sorted(descending=True)
    assert scores[-1][1] is None
    assert ask(f"from why('{topic}', {scores[-1][0]}, scoring := {scoring})").height == 0


def test_why_names_the_prompts_the_neuron_fired_on_with_their_distance(ask):
    found = ask("from why('ice', 3, sae := 0)")
    fired = np.flatnonzero(RAWS[0][2][:, 3])
    assert sorted(found["prompt_id"]) == fired.tolist()
    assert found["text"].to_list() == [f"prompt {i}" for i in found["prompt_id"]]
    ice = np.stack([EMBED.vectors[text] for text in TOPICS["ice"].texts])
    expected = np.linalg.norm(VECTORS[:, None] - ice[None], axis=2).min(axis=1)
    np.testing.assert_allclose(found["distance"], expected[found["prompt_id"].to_numpy()], rtol=1e-5)


def test_why_gives_cosine_distances_where_the_scoring_used_them(ask):
    found = ask("from why('ice', 3, scoring := 5)")
    ice = np.stack([EMBED.vectors[text] for text in TOPICS["ice"].texts])
    expected = 1 - (VECTORS @ ice.T).max(axis=1)
    np.testing.assert_allclose(found["distance"], expected[found["prompt_id"].to_numpy()], rtol=1e-4)


def test_comparing_topics_sets_neurons_apart_by_their_centred_g(ask):
    found = ask("from compare_topics('fire', 'ice', sae := 'sae-0')")
    scores = ask("select a.neuron, a.g as fire, b.g as ice, a.score as s, b.score as t from scores a join scores b using (neuron) "
                 "where a.scoring_id = 0 and b.scoring_id = 1 and a.score is not null")  # fmt: skip
    expected = scores.with_columns(
        closer=(pl.col("ice") - pl.col("ice").mean()) - (pl.col("fire") - pl.col("fire").mean())
    ).sort("closer", descending=True)
    assert found["neuron"].to_list() == expected["neuron"].to_list()
    np.testing.assert_allclose(found["closer_to_a"], expected["closer"], atol=1e-9)
    assert found.select("score_a", "score_b").rows() == expected.select("s", "t").rows()


def test_comparing_the_other_way_round_turns_the_sign_and_a_topic_with_itself_gives_zero(ask):
    one, other = ask("from compare_topics('fire', 'ice')"), ask("from compare_topics('ice', 'fire')")
    both = one.join(other, on=["sae_id", "neuron"])
    assert both.height == one.height == other.height
    assert both["sae_id"].n_unique() == 2
    np.testing.assert_allclose(both["closer_to_a"], -both["closer_to_a_right"], atol=1e-12)
    assert ask("from compare_topics('ice', 'ice')")["closer_to_a"].abs().max() == 0


def test_coverage_counts_neurons_by_support(ask):
    found = ask("from coverage()")
    for row, raw in zip(found.iter_rows(named=True), RAWS, strict=True):
        support = (raw[2] > 0).sum(axis=0)
        fired, supported = int((support >= 1).sum()), int((support >= 20).sum())
        assert (row["fired"], row["supported"]) == (fired, supported)
        assert row["coverage"] == pytest.approx(fired / raw.shape[2])
        assert row["coverage_20"] == pytest.approx(supported / raw.shape[2])
    assert found["sae_id"].to_list() == ["sae-0", "sae-1"]
    assert found["fired"].to_list() == [NEURONS - 1, NEURONS + 2]


@pytest.mark.parametrize("key", [0, 1])
def test_similar_neurons_are_those_that_fire_on_the_same_prompts(ask, key):
    found = ask(f"from similar_neurons(2, sae := 'sae-{key}')")
    sums = RAWS[key][0].astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = sums[:, 2] @ sums / (np.linalg.norm(sums[:, 2]) * np.linalg.norm(sums, axis=0))
    np.testing.assert_allclose(found["cosine"], cosine[found["neuron"].to_numpy()], rtol=1e-6)
    assert found["cosine"].is_sorted(descending=True)
    assert sorted(found["neuron"]) == [n for n in range(sums.shape[1]) if n != 2 and cosine[n] > 0]
    shared = ((sums[:, [2]] > 0) & (sums > 0)).sum(axis=0)
    assert found["shared_prompts"].to_list() == shared[found["neuron"].to_numpy()].tolist()


def test_similar_neurons_of_every_sae_are_kept_apart(ask):
    parts = [ask(f"from similar_neurons(2, sae := {key})") for key in (0, 1)]
    assert ask("from similar_neurons(2)").sort("sae_id", "neuron").equals(pl.concat(parts).sort("sae_id", "neuron"))


def test_the_view_of_scores_shows_current_ones_ranked_like_top_neurons(ask):
    view = ask("from neuron_scores order by topic, sae_id, neuron")
    assert view.group_by("topic", "sae_id").len().sort("topic", "sae_id")["len"].to_list() == [10, 13, 10, 13]
    assert view["summary"].unique().to_list() == ["mean"]
    for topic in ("fire", "ice"):
        best = ask(f"from top_neurons('{topic}', 99, by := 'score')").select(
            "topic", "sae_id", "neuron", "rank", "score"
        )
        ranked = view.filter(pl.col("rank").is_not_null(), pl.col("topic") == topic).select(best.columns)
        assert ranked.sort("sae_id", "rank").rows() == best.sort("sae_id", "rank").rows()
    assert view.filter(pl.col("score").is_null())["rank"].null_count() == view["score"].null_count() > 0


def test_every_column_and_table_has_a_comment(ask):
    bare = ask(
        "select table_name || '.' || column_name as name from duckdb_columns() where schema_name = 'main' and not internal "
        "and comment is null and table_name in (select table_name from duckdb_tables()) "
        "union all select table_name from duckdb_tables() where comment is null "
        "union all select view_name from duckdb_views() where not internal and comment is null"
    )
    assert bare["name"].to_list() == []
