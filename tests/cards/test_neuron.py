"""What a neuron's card says is what the tables and the model say."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import duckdb
import numpy as np
import polars as pl
import pytest
import tiny
import torch

import atlas
import atlas.cards.neuron
from atlas.cards.neighbours import nearest_in_writing
from atlas.cards.neuron import RANDOM, STRONGEST, Neuron, read_neuron
from atlas.cards.token_values import BATCH_TOKENS, batches, measure_token_values
from atlas.cards.written_tokens import bins_of, spread_of
from atlas.errors import AtlasError, ModelError, StoreError, UnknownName
from atlas.models.activations import encode_entries, run_model, tokenize
from atlas.models.embeddings import embed_frame
from atlas.models.recorded import RecordedModels
from atlas.models.saes import load_sae
from atlas.models.tokens import special_ids
from atlas.models.unembedding import promoted_ids
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

DEAD = 4  # of the first SAE, as tiny.save_saes makes it


@pytest.fixture(scope="module")
def scored(built_atlas, tmp_path_factory, encoder):
    path = tmp_path_factory.mktemp("cards") / "x.atlas"
    shutil.copy(built_atlas, path)
    topics = {"sea": collect_texts(tiny.SEA), "medicine": collect_texts(tiny.MEDICINE)}
    config = ScoringConfig(min_support=5, null_topics=3)
    score_topics(Store(path), topics, embed=partial(embed_frame, encoder), config=config)
    return path


@pytest.fixture
def opened(scored, tmp_path):
    return atlas.open(shutil.copy(scored, tmp_path / "x.atlas"))


@pytest.fixture(scope="module")
def neuron(scored, tmp_path_factory) -> Neuron:
    """One that fires often, of the first SAE."""
    opened = atlas.open(shutil.copy(scored, tmp_path_factory.mktemp("one") / "x.atlas"))
    number = opened.sql("select neuron from neurons where sae_key = 0 order by support desc, neuron limit 1").item()
    return opened.neuron(number, sae_id=0)


def test_every_token_has_the_activation_that_the_sae_gives_it_alone(neuron, language_model, sae_folder):
    sae = load_sae(str(sae_folder), "residual")
    special = special_ids(language_model.tokenizer)
    for row in neuron.samples.iter_rows(named=True):
        ids, _ = tokenize(language_model, [row["text"]], prepend_bos=True)
        x = run_model(language_model, ids, [sae.hook_name])[sae.hook_name]
        found = encode_entries(sae, x, ids, special)
        wanted = {
            int(place): float(value)
            for place, number, value in zip(found.position, found.neuron, found.value, strict=True)
            if number == neuron.row["neuron"]
        }
        assert row["activations"][0] is None  # BOS
        fired = {place: value for place, value in enumerate(row["activations"]) if value}
        assert fired == pytest.approx(wanted, rel=1e-4)
        assert max(fired.values()) == pytest.approx(row["act_max"], rel=1e-4)
        assert len(fired) == row["act_count"]


def test_tokens_joined_are_the_prompt(neuron):
    for row in neuron.samples.iter_rows(named=True):
        assert row["tokens"][0] == tiny.END
        assert "".join(row["tokens"][1:]) == row["text"]


def test_samples_are_the_strongest_then_weaker_ranges_then_any(neuron):
    fired = neuron.samples
    strongest = fired.filter(pl.col("kind") == "strongest")
    assert strongest.height == STRONGEST
    assert strongest["act_max"].is_sorted(descending=True)
    assert strongest["act_max"][0] == pytest.approx(neuron.row["max_activation"])
    ranges = fired.filter(pl.col("kind") == "range")
    assert ranges["act_max"].is_between(ranges["low"], ranges["high"]).all()
    assert ranges["act_max"].max() <= strongest["act_max"].min()
    assert not set(ranges["prompt_id"]) & set(strongest["prompt_id"])
    random = fired.filter(pl.col("kind") == "random")
    assert random.height == RANDOM
    assert random["prompt_id"].n_unique() == RANDOM


def test_the_histogram_counts_every_prompt_once(neuron):
    assert neuron.histogram["prompts"].sum() == neuron.row["support"]
    assert neuron.histogram["high"].max() == pytest.approx(neuron.row["max_activation"])


def test_figures_are_those_of_a_query(opened, neuron):
    number = neuron.row["neuron"]
    same = opened.sql(
        f"select neuron, cosine from similar_neurons({number}, sae := 0) order by cosine desc, neuron limit 8"
    )
    own = neuron.neighbours.filter((pl.col("kind") == "co-firing") & (pl.col("sae_key") == 0))
    assert own.select("neuron", "cosine").rows() == same.rows()
    for other in (0, 1):
        same = opened.sql(f"select neuron, cosine from nearest_neurons({number}, 8, sae := 0, other := {other})")
        own = neuron.neighbours.filter((pl.col("kind") == "meaning") & (pl.col("sae_key") == other))
        assert own.select("neuron", "cosine").rows() == same.rows()
    same = opened.sql(
        f"select topic, score, se, z, rank from neuron_scores where neuron = {number} and sae_id = 'residual' order by rank, topic"
    )
    assert neuron.topics.select("topic", "score", "se", "z", "rank").rows() == same.rows()


def test_decoder_neighbours_are_those_of_largest_cosine(neuron, sae_folder):
    rows = load_sae(str(sae_folder), "residual").codec.decoder_rows
    cosines = torch.nn.functional.cosine_similarity(rows, rows[neuron.row["neuron"]][None])
    cosines[neuron.row["neuron"]] = -1
    own = neuron.neighbours.filter(pl.col("kind") == "decoder")
    assert own["sae_key"].unique().to_list() == [0]  # the other one writes elsewhere
    assert own["neuron"].to_list() == cosines.topk(8).indices.tolist()
    assert own["cosine"].to_list() == pytest.approx(cosines.topk(8).values.tolist(), abs=1e-6)


def test_decoder_neighbours_of_an_sae_at_another_layer_are_found_and_of_another_width_are_not(sae_folder):
    saes = {name: load_sae(str(sae_folder), name) for name in ("residual", "later", "too-wide")}
    rows = [
        {"sae_key": key, "name": name, "hook_name": sae.hook_name, "d_in": sae.codec.d_in, "model_hash": "m"}
        for key, (name, sae) in enumerate(saes.items())
    ]
    found = nearest_in_writing(rows[0], 3, rows, lambda row: saes[row["name"]].codec)
    assert found["sae_key"].unique(maintain_order=True).to_list() == [0, 1]
    strange = [rows[0], {**rows[1], "model_hash": "another"}]
    assert nearest_in_writing(rows[0], 3, strange, lambda row: saes[row["name"]].codec)[
        "sae_key"
    ].unique().to_list() == [0]


@pytest.mark.parametrize("name", ["residual", "heads"])
def test_promoted_tokens_are_those_that_the_build_kept_and_suppressed_ones_are_the_others_end(
    name, opened, language_model, sae_folder
):
    sae = load_sae(str(sae_folder), name)
    for number in (0, 11):
        found = opened.neuron(number, sae_id=name)
        promoted = found.written.filter(pl.col("side") == "promoted")
        assert promoted["token"].to_list() == found.row["top_tokens"]
        assert promoted["logit"].is_sorted(descending=True)
        suppressed = found.written.filter(pl.col("side") == "suppressed")
        assert suppressed["logit"].is_sorted()
        assert suppressed["logit"].max() < promoted["logit"].min()
        every = promoted_ids(language_model, sae, count=400, neurons=torch.tensor([number]))[0].tolist()
        names = [language_model.tokenizer.decode([i]) for i in every]
        assert suppressed["token"].to_list() == names[: -len(suppressed) - 1 : -1]


def test_histograms_count_the_tokens_of_the_prompts_shown_and_all_of_the_vocabulary(opened, language_model):
    found = opened.neuron(0, sae_id=0)
    tokens = found.samples.unique("prompt_id")["activations"].explode().drop_nulls()
    assert found.token_histogram["tokens"].sum() == (tokens > 0).sum() > 0
    high = found.token_histogram.item(-1, "low")
    assert found.token_histogram.item(-1, "tokens") == (tokens >= high).sum()
    assert found.token_histogram.item(-1, "high") == pytest.approx(found.row["max_activation"], rel=1e-5)
    assert found.logit_histogram["tokens"].sum() == len(language_model.tokenizer)
    ends = found.written["logit"].min(), found.written["logit"].max()
    assert (found.logit_histogram.item(0, "low"), found.logit_histogram.item(-1, "high")) == pytest.approx(ends)
    assert found.logit_histogram["tokens"][-1] >= 1


def test_logits_that_are_all_the_same_have_one_range():
    assert bins_of(spread_of(np.full(7, 2.0, dtype=np.float32))).rows() == [(2.0, 2.0, 7)]
    assert bins_of(spread_of(np.arange(100, dtype=np.float32)))["tokens"].to_list() == [2] * 50
    assert bins_of(pl.DataFrame()).is_empty()


def test_what_the_model_was_run_for_is_kept_and_not_run_for_again(opened, monkeypatch):
    first = opened.neuron(0, sae_id=0)

    def refuse(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(atlas.cards.neuron, "measure_token_values", refuse)
    monkeypatch.setattr(atlas.cards.neuron, "measure_token_logits", refuse)
    again = atlas.open(opened.store.path).neuron(0, sae_id=0)
    stored = atlas.open(opened.store.path).neuron(0, sae_id=0, live=False)
    for part in ("samples", "written", "histogram", "token_histogram", "logit_histogram", "topics"):
        assert getattr(again, part).equals(getattr(first, part))
        assert getattr(stored, part).equals(getattr(first, part))
    assert first.notices == again.notices == stored.notices == ()
    assert stored.neighbours.filter(pl.col("kind") == "decoder").is_empty()


def test_nothing_is_kept_where_that_is_not_wanted(opened):
    before = opened.store.path.read_bytes()
    assert opened.neuron(0, sae_id=0, save=False).samples["tokens"].null_count() == 0
    assert opened.store.path.read_bytes() == before


def test_an_atlas_that_is_opened_for_reading_alone_keeps_nothing_and_shows_all(opened):
    before = opened.store.path.read_bytes()
    found = atlas.Atlas(Store(opened.store.path, read_only=True)).neuron(0, sae_id=0)
    assert found.samples["tokens"].null_count() == 0
    assert found.notices == ()
    assert opened.store.path.read_bytes() == before


def test_an_older_file_gets_the_tables_when_a_neuron_is_looked_at(opened):
    tables = ("token_values", "token_logits", "logit_histograms", "map", "notes")
    with duckdb.connect(str(opened.store.path)) as connection:
        for table in tables:
            connection.execute(f"drop table {table}")
    before = opened.store.path.read_bytes()
    assert opened.neuron(0, sae_id=0, live=False).notes.is_empty()
    assert opened.notes().is_empty()
    assert opened.info()["stale_maps"] == {}
    assert opened.store.path.read_bytes() == before
    assert opened.neuron(0, sae_id=0).notices == ()
    with duckdb.connect(str(opened.store.path), read_only=True) as connection:
        found = {name for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()}
    assert set(tables) <= found
    assert opened.sql("from token_values").height


def test_a_file_that_cannot_be_written_shows_all_and_says_that_it_is_not_kept(opened):
    with duckdb.connect(str(opened.store.path), read_only=True):
        found = opened.neuron(0, sae_id=0)
    assert found.samples["tokens"].null_count() == 0
    [notice] = found.notices
    assert notice.startswith("what the model was run for is not kept: ")
    with opened.store.read() as session:
        assert session.sql("from token_values").is_empty()


def test_without_the_model_the_stored_contexts_are_shown_and_it_is_said(opened, tmp_path):
    found = opened.neuron(0, sae_id=0, release=str(tmp_path / "gone"), model=str(tmp_path / "gone"))
    assert found.samples["tokens"].null_count() == found.samples.height > 0
    assert found.contexts.height
    assert [notice.partition(":")[0] for notice in found.notices] == [
        "neurons that write alike are not shown",
        "the tokens of the prompts have no values, and are shown as the build kept them",
        "the tokens that it writes have no logits",
    ]
    assert found.written["token"].to_list() == found.row["top_tokens"]
    assert set(found.neighbours["kind"]) == {"meaning", "co-firing"}


def test_a_dead_neuron_says_so_and_shows_what_it_would_write(opened):
    found = opened.neuron(DEAD, sae_id=0)
    assert found.is_dead
    assert found.samples.is_empty()
    assert found.histogram.is_empty()
    assert set(found.neighbours["kind"]) == {"decoder"}
    assert set(found.written["side"]) == {"promoted", "suppressed"}
    assert found.topics["rank"].null_count() == found.topics.height == 2
    assert found.notices == ()


def test_neurons_are_numbered_to_both_sides(opened):
    ends = [opened.neuron(number, sae_id=0, live=False) for number in (0, 1, 23)]
    assert [(one.previous, one.next) for one in ends] == [(None, 1), (0, 2), (22, None)]


def test_what_is_not_there_is_said_in_one_line(opened):
    with pytest.raises(UnknownName, match="unknown neuron '24': known are 0 to 23"):
        opened.neuron(24, sae_id="residual")
    with pytest.raises(UnknownName, match="unknown neuron '-1'"):
        opened.neuron(-1, sae_id=0)
    with pytest.raises(AtlasError, match="2 SAEs to choose from"):
        opened.neuron(0)
    with pytest.raises(UnknownName, match="unknown SAE"):
        opened.neuron(0, sae_id="none")


def test_labels_of_every_source_are_there_the_shown_one_first(opened):
    with opened.store.write() as session:
        rows = {"neuron": [0, 0], "source": ["words", "neuronpedia"], "label": ["a", "b"], "quality": [0.9, None]}
        session.append("labels", pl.DataFrame(rows).with_columns(sae_key=pl.lit(0)))
    found = opened.neuron(0, sae_id=0, live=False)
    assert found.labels.select("label", "shown").rows() == [("b", True), ("a", False)]
    assert found.row["label"] == "b"


@pytest.mark.parametrize("value", ["'nan'", "'inf'", "null"])
def test_activations_that_are_no_numbers_are_said_in_one_line(opened, value):
    with opened.store.write() as session:
        session._execute(f"update activations set act_max = {value} where sae_key = 0 and neuron = 0 and prompt_id < 3")
    with pytest.raises(
        StoreError, match=r"is damaged \(neuron 0 fires on \d+ prompts, and has \d+ activations that are numbers"
    ):
        opened.neuron(0, sae_id=0, live=False)
    assert opened.neuron(1, sae_id=0, live=False).samples.height


def test_activations_of_0_have_a_place_too(opened):
    with opened.store.write() as session:
        session._execute("update activations set act_max = 0 where sae_key = 0 and neuron = 0")
    found = opened.neuron(0, sae_id=0, live=False)
    assert found.histogram["prompts"].to_list()[0] == found.row["support"]


def test_two_readers_at_once_keep_one_row(opened, monkeypatch):
    """Both find nothing kept, and both keep."""
    recorded, kept = RecordedModels(opened.store), atlas.cards.neuron.keep

    def keep_twice(store, place, fresh):
        kept(store, place, fresh)
        kept(store, place, fresh)

    monkeypatch.setattr(atlas.cards.neuron, "keep", keep_twice)
    read_neuron(opened.store, 0, 0, recorded=recorded)
    Store(opened.store.path).check()
    with opened.store.read() as session:
        assert session.sql("select prompt_id from token_values")["prompt_id"].is_unique().all()


def test_a_model_that_is_steered_meanwhile_gives_the_same_values(opened):
    recorded = opened.recorded()
    own, reader = recorded.sae(opened._ask("all_saes").row(0, named=True)), recorded.read_as({"prepend_bos": True})
    prompts = pl.DataFrame({"prompt_id": [0], "text": [tiny.PROMPTS[0]]}, schema_overrides={"prompt_id": pl.UInt32})
    alone = measure_token_values(reader, own.codec, 0, prompts)
    with opened.steer(recorded.model[0], None, method="clamp", strength=50.0) as steering:
        steering.model(**steering.encode(tiny.PROMPTS[0]))
        assert measure_token_values(reader, own.codec, 0, prompts).equals(alone)


def test_prompts_go_through_the_model_in_batches_of_their_length():
    rows = [[0] * length for length in (3, BATCH_TOKENS, 3, 2)]
    assert batches(rows) == [[3, 0, 2], [1]]


def test_a_text_without_a_token_is_said(opened):
    reader = opened.recorded().read_as({"prepend_bos": False})
    with pytest.raises(AtlasError, match="a text has no token: give some text"):
        measure_token_values(reader, None, 0, pl.DataFrame({"prompt_id": [0], "text": [""]}))


def test_a_hook_that_never_runs_is_said(opened, language_model):
    reader = opened.recorded().read_as({"prepend_bos": True})
    codec = replace_hook(
        opened.recorded().sae(opened._ask("all_saes").row(0, named=True)).codec, "blocks.7.hook_resid_post"
    )
    with pytest.raises(ModelError, match=r"blocks\.7"):
        measure_token_values(reader, codec, 0, pl.DataFrame({"prompt_id": [0], "text": ["a"]}))


def replace_hook(codec, name):
    other = type(codec)(codec.sae)
    config = replace(codec.sae.cfg, metadata=type(codec.sae.cfg.metadata)(hook_name=name))
    other.sae = type("Sae", (), {"cfg": config})()
    return other
