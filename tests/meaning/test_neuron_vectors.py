"""Neuron vectors give g without a scan, and z without random topics (method: section 8); every atlas has or gets them."""

from __future__ import annotations

import shutil

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest
from command import run

import atlas.meaning.neuron_vectors
import atlas.store.weights
from atlas.errors import StoreError
from atlas.meaning.neuron_vectors import ensure_neuron_vectors
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.contents import LATER
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store

PROMPTS, NEURONS, WIDTH = 300, 40, 8
RNG = np.random.default_rng(11)
RAWS = [handmade.random_raw(RNG, PROMPTS, NEURONS), handmade.random_raw(RNG, PROMPTS, NEURONS + 5, share=0.1)]
VECTORS = handmade.unit_vectors(RNG, PROMPTS, WIDTH) + np.float32(0.4) * np.eye(WIDTH, dtype=np.float32)[0]
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
TOPICS, EMBED = handmade.make_topics(RNG, one=1, more=6)


def reference(raw):
    """The vectors of section 8 of the method, NaN for a neuron that never fired, and which neurons have enough support."""
    with np.errstate(invalid="ignore"):
        w = np.nan_to_num(raw[0] / raw[0].sum(axis=1, keepdims=True, dtype=np.float64))
        return (w.T @ VECTORS) / w.sum(axis=0)[:, None], (raw[2] > 0).sum(axis=0) >= 20


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = handmade.make_store(tmp_path_factory.mktemp("meaning") / "x.atlas", RAWS, VECTORS)
    ensure_neuron_vectors(store)
    score_topics(store, TOPICS, embed=EMBED, config=ScoringConfig(null_topics=0))
    return store


@pytest.fixture(scope="module")
def ask(store):
    """Any DuckDB client, without atlas."""
    with duckdb.connect(str(store.path), read_only=True) as connection:
        yield lambda sql: connection.sql(sql).pl()


def rows(store):
    with store.read() as session:
        return [session.sql(f"from {table} order by all").rows() for table in ("neuron_vectors", "embedding_moments")]


def text_of(topic):
    return f"(select vector from topic_texts join topics using (topic_id) where name = '{topic}' and text_id = 0)"


@pytest.mark.parametrize("key", [0, 1])
def test_a_vector_is_the_weighted_mean_of_the_embeddings_and_only_neurons_that_fired_have_one(ask, key):
    found = ask(f"from neuron_vectors where sae_key = {key} order by neuron")
    expected, _ = reference(RAWS[key])
    fired = np.flatnonzero(np.isfinite(expected[:, 0]))
    assert found["neuron"].to_list() == fired.tolist()
    assert len(fired) < len(expected)
    np.testing.assert_allclose(np.stack(found["vector"].to_list()), expected[fired], atol=1e-6)
    np.testing.assert_allclose(found["square"], 1, atol=1e-6)


@pytest.mark.parametrize("key", [0, 1])
def test_g_of_one_text_is_that_of_the_scan(ask, key):
    scanned = ask(f"select neuron, s.* from scores s join scorings g using (scoring_id) join topics t using (topic_id) "
                  f"where t.name = 'one' and g.sae_key = {key} and s.score is not null order by neuron")  # fmt: skip
    found = ask(f"from search_neurons({text_of('one')}, 1000, sae := {key}) order by neuron")
    assert found["neuron"].to_list() == scanned["neuron"].to_list()
    np.testing.assert_allclose(found["g"], scanned["g"], atol=1e-5)
    np.testing.assert_allclose(found["score"], scanned["score"], atol=1e-4)
    assert (found["score"].min(), found["score"].max()) == (0, 1)


@pytest.mark.parametrize(("key", "texts"), [(0, 1), (0, 6), (1, 20)])
def test_z_in_closed_form_is_that_of_twenty_thousand_random_topics(ask, key, texts):
    expected, enough = reference(RAWS[key])
    chosen = RNG.integers(0, PROMPTS, (20_000, texts))
    g = 2 - 2 * VECTORS[chosen].mean(axis=1) @ expected[enough].T
    centred = g - g.mean(axis=1, keepdims=True)
    own = EMBED.vectors["one text 0"]
    mine = 2 - 2 * expected[enough] @ own
    z = (mine - mine.mean() - centred.mean(axis=0)) / centred.std(axis=0)
    found = ask(f"from search_neurons({text_of('one')}, 1000, sae := {key}, texts := {texts}) order by neuron")
    assert found["neuron"].to_list() == np.flatnonzero(enough).tolist()
    np.testing.assert_allclose(found["z"], z, rtol=0.02, atol=0.02 * np.abs(z).std())
    spread = ask(f"select spread from neuron_vectors join neurons using (sae_key, neuron) where sae_key = {key} "
                 "and support >= 20 order by neuron")["spread"]  # fmt: skip
    np.testing.assert_allclose(2 * spread.to_numpy() / np.sqrt(texts), centred.std(axis=0), rtol=0.02)


def test_search_gives_the_n_best_per_sae_by_z_or_by_score(ask):
    for order, column, sign in (("z", "z", 1), ("score", "score", -1)):
        found = ask(f"""from search_neurons({text_of("more")}, 4, "by" := '{order}')""")
        every = ask(f"""from search_neurons({text_of("more")}, 1000)""")
        for key in (0, 1):
            mine = every.filter(pl.col("sae_key") == key).sort(sign * pl.col(column), "neuron").head(4)
            assert found.filter(pl.col("sae_key") == key)["neuron"].to_list() == mine["neuron"].to_list()
        assert found["rank"].to_list() == [1, 2, 3, 4] * 2
        assert found["top_tokens"].to_list() == [[f" t{neuron}"] for neuron in found["neuron"]]


def test_a_search_with_a_vector_of_another_width_is_refused(ask):
    with pytest.raises(duckdb.InvalidInputException, match="dimensions must be equal"):
        ask("from search_neurons([1, 2], 3)")


@pytest.mark.parametrize("other", [None, 1])
def test_the_nearest_neurons_are_those_of_the_largest_cosine_about_the_mean_embedding(ask, other):
    found = ask(f"from nearest_neurons(3, 5, sae := 'sae-0', other := {other or 'null'})")
    mean = VECTORS.mean(axis=0)
    own = reference(RAWS[0])[0][3] - mean
    theirs, enough = reference(RAWS[other or 0])
    theirs = theirs - mean
    cosine = theirs @ own / np.linalg.norm(theirs, axis=1) / np.linalg.norm(own)
    cosine[~enough] = -2
    if other is None:
        cosine[3] = -2
    best = np.argsort(-cosine)[:5]
    assert found["neuron"].to_list() == best.tolist()
    assert set(found["sae_id"]) == {f"sae-{other or 0}"}
    assert set(found["own_sae_id"]) == {"sae-0"}
    np.testing.assert_allclose(found["cosine"], cosine[best], atol=1e-5)


def test_without_an_sae_the_nearest_are_those_in_each_of_the_saes(ask):
    found = ask("from nearest_neurons(3, 2)")
    assert found.select("own_sae_id", "sae_id").rows() == [("sae-0", "sae-0")] * 2 + [("sae-1", "sae-1")] * 2
    assert ask("from nearest_neurons(3, 2, sae := 0, other := 'none')").height == 0
    assert ask(f"from nearest_neurons({NEURONS - 1}, 2, sae := 0)").height == 0  # it never fired


def test_runs_of_neurons_and_blocks_of_prompts_give_the_same_vectors_as_one(store, tmp_path, monkeypatch):
    other = handmade.make_store(tmp_path / "x.atlas", RAWS, VECTORS)
    monkeypatch.setattr(atlas.store.weights, "ROWS", 500)
    monkeypatch.setattr(atlas.meaning.neuron_vectors, "BLOCK_VALUES", 70 * WIDTH)
    ensure_neuron_vectors(other)
    for one, two in zip(rows(store), rows(other), strict=True):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(np.array(x, float), np.array(y, float), atol=1e-7)


def test_embeddings_that_are_not_quite_of_length_one_give_the_g_of_the_scan_too(tmp_path):
    store = handmade.make_store(tmp_path / "x.atlas", RAWS[:1], VECTORS.astype(np.float16).astype(np.float32) * 1.001)
    ensure_neuron_vectors(store)
    score_topics(store, TOPICS, embed=EMBED, config=ScoringConfig(null_topics=0))
    with duckdb.connect(str(store.path), read_only=True) as connection:
        scanned = connection.sql(
            "select neuron, g from scores where scoring_id = 0 and score is not null order by 1"
        ).pl()
        found = connection.sql(f"from search_neurons({text_of('one')}, 1000) order by neuron").pl()
    np.testing.assert_allclose(found["g"], scanned["g"], atol=1e-5)


def test_fewer_than_two_neurons_with_enough_support_have_no_spread_and_are_not_found(tmp_path):
    store = handmade.make_store(tmp_path / "x.atlas", [RAWS[0][:, :15]], VECTORS[:15])
    ensure_neuron_vectors(store)
    with duckdb.connect(str(store.path), read_only=True) as connection:
        assert connection.sql("select count(*), count(spread) from neuron_vectors").fetchall() == [(NEURONS - 1, 0)]
        assert connection.sql("from search_neurons([0, 0, 0, 0, 0, 0, 0, 1], 3)").fetchall() == []


def test_a_build_leaves_the_vectors_that_are_made_of_its_tables(built_atlas, tmp_path):
    path = tmp_path / "again.atlas"
    shutil.copy(built_atlas, path)
    built = rows(Store(built_atlas))
    assert all(built)
    with Store(path).write() as session:
        session.run("drop_neuron_vectors")
    ensure_neuron_vectors(Store(path))
    assert rows(Store(path)) == built


def older(path, good):
    """A file as versions before neuron vectors made it."""
    shutil.copy(good, path)
    with duckdb.connect(str(path)) as connection:
        for table in LATER:
            connection.execute(f"drop table {table}")
        connection.execute("drop macro table search_neurons; drop macro table nearest_neurons")
    return path


def test_an_older_file_is_read_as_before_and_gets_its_vectors_when_they_are_needed(built_atlas, tmp_path, caplog):
    path = older(tmp_path / "old.atlas", built_atlas)
    before = path.read_bytes()
    code, stdout, stderr = run(
        "query", path, "select (select count(*) from prompts), (select count(*) from neuron_vectors)"
    )
    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[-1].split() == ["60", "0"]
    assert run("info", path)[0] == 0
    assert path.read_bytes() == before
    ensure_neuron_vectors(Store(path))
    assert f"{path} has no neuron vectors yet: making them from its tables, once" in caplog.text
    assert rows(Store(path)) == rows(Store(built_atlas))
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.sql(
            "select count(*) from duckdb_functions() where function_name = 'search_neurons'"
        ).fetchall() == [(1,)]
        assert connection.sql(
            "select count(comment) from duckdb_columns() where table_name = 'neuron_vectors'"
        ).fetchall() == [(6,)]
    caplog.clear()
    ensure_neuron_vectors(Store(path))
    assert caplog.text == ""


def test_an_older_file_that_is_written_to_gets_the_tables_and_after_an_error_does_not(built_atlas, tmp_path):
    path = older(tmp_path / "old.atlas", built_atlas)

    def tables():
        with duckdb.connect(str(path), read_only=True) as connection:
            return {name for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()}

    with pytest.raises(ZeroDivisionError), Store(path).write():
        raise ZeroDivisionError
    assert not tables() & set(LATER)
    with Store(path).write():
        pass
    assert set(LATER) <= tables()
    with Store(path).read() as session:
        assert session.sql("select count(*) from neuron_vectors").item() == 0


def test_an_export_carries_the_vectors_and_one_without_them_is_imported(built_atlas, tmp_path):
    export_atlas(Store(built_atlas), tmp_path / "export")
    import_atlas(tmp_path / "export", tmp_path / "same.atlas")
    assert rows(Store(tmp_path / "same.atlas")) == rows(Store(built_atlas))
    old = Store(older(tmp_path / "old.atlas", built_atlas))
    export_atlas(old, tmp_path / "without")
    import_atlas(tmp_path / "without", tmp_path / "new.atlas")
    new = Store(tmp_path / "new.atlas")
    assert rows(new) == [[], []]
    ensure_neuron_vectors(new)
    assert rows(new) == rows(Store(built_atlas))


def test_an_unfinished_atlas_gets_no_vectors(built_atlas, tmp_path):
    path = tmp_path / "x.atlas"
    shutil.copy(built_atlas, path)
    with Store(path).write() as session:
        session.run("mark_building", reference_hash="other")
    with pytest.raises(StoreError, match="is unfinished"):
        ensure_neuron_vectors(Store(path))
