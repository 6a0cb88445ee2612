"""An atlas holds what the model and its SAEs do on the prompts, however often its build was interrupted or extended."""

from __future__ import annotations

import dataclasses
import random
import shutil
from multiprocessing import Pipe

import dying
import numpy as np
import polars as pl
import pytest
import tiny
import torch
from contents import assert_same, change, tables
from polars.testing import assert_frame_equal

import atlas.building.build
import atlas.building.finish
import atlas.building.plan
from atlas.building.build import build_atlas
from atlas.errors import ModelError, StoreError, UnknownName
from atlas.models.embeddings import embed_frame
from atlas.models.saes import load_sae
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

FEW_COUNT = 20
FEW = collect_texts(tiny.PROMPTS[:FEW_COUNT])


@pytest.fixture
def arguments(gpt2_folder, sae_folder):
    """What every build of the tiny model takes."""
    return {"model": str(gpt2_folder), "saes": [(str(sae_folder), "residual"), (str(sae_folder), "heads")]}


@pytest.fixture
def few(tmp_path, loaded_once, arguments):
    """An atlas of the first 20 prompts."""
    path = tmp_path / "few.atlas"
    build_atlas(path, FEW, **arguments)
    return path


@pytest.fixture(scope="module")
def direct(built_atlas, sae_folder, transformer, language_model):
    """Codes of every prompt's tokens [token, neuron], from transformers and SAELens alone, per SAE: lists over prompts."""
    residual, heads = (load_sae(str(sae_folder), name).codec.sae for name in ("residual", "heads"))
    codes = [[], []]
    for text in tiny.PROMPTS:
        ids = language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = transformer(torch.tensor([[0, *ids]]), output_hidden_states=True).hidden_states[1]
            codes[0].append(residual.encode(hidden)[0, 1:].numpy())
            caught = []
            projection = transformer.transformer.h[1].attn.c_proj
            handle = projection.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
            transformer(torch.tensor([ids]))
            handle.remove()
            codes[1].append(heads.encode(caught[0])[0].numpy())
    return codes


@pytest.mark.parametrize("sae_key", [0, 1])
def test_activations_equal_a_direct_computation_with_saelens(built_atlas, direct, sae_key):
    stored = tables(built_atlas)
    codes = direct[sae_key]
    expected = np.stack([[c.sum(axis=0), c.max(axis=0), (c > 0).sum(axis=0)] for c in codes])  # prompt, summary, neuron
    found = np.zeros_like(expected)
    rows = stored["activations"].filter(pl.col("sae_key") == sae_key)
    place = rows["prompt_id"].to_numpy(), slice(None), rows["neuron"].to_numpy()
    found[place] = rows.select("act_sum", "act_max", "act_count").to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert rows.height == (expected[:, 2] > 0).sum()
    totals = stored["prompt_totals"].filter(pl.col("sae_key") == sae_key)
    assert totals["prompt_id"].to_list() == list(range(60))
    np.testing.assert_allclose(
        totals.select(pl.exclude("sae_key", "prompt_id")).to_numpy(), expected.sum(axis=2), rtol=1e-3
    )


@pytest.mark.parametrize("sae_key", [0, 1])
def test_neurons_have_the_support_mass_and_peak_of_their_activations(built_atlas, direct, sae_key, sae_folder):
    rows = tables(built_atlas)["neurons"].filter(pl.col("sae_key") == sae_key)
    sums = np.stack([c.sum(axis=0) for c in direct[sae_key]])
    assert rows["neuron"].to_list() == list(range(sums.shape[1]))
    assert rows["support"].to_list() == (sums > 0).sum(axis=0).tolist()
    assert {4, 7, 17} & set(rows.filter(pl.col("support") == 0)["neuron"]) == ({4, 17}, {7})[sae_key]
    np.testing.assert_allclose(rows["mass_mean"], (sums / sums.sum(axis=1, keepdims=True)).sum(axis=0), rtol=1e-3)
    np.testing.assert_allclose(rows["max_activation"], np.concatenate(direct[sae_key]).max(axis=0), rtol=1e-3)
    counts = np.stack([(c > 0).sum(axis=0) for c in direct[sae_key]])
    np.testing.assert_allclose(rows["mass_count"], (counts / counts.sum(axis=1, keepdims=True)).sum(axis=0), rtol=1e-6)
    peaks = np.stack([c.max(axis=0) for c in direct[sae_key]])
    np.testing.assert_allclose(rows["mass_max"], (peaks / peaks.sum(axis=1, keepdims=True)).sum(axis=0), rtol=1e-3)
    decoder = load_sae(str(sae_folder), ("residual", "heads")[sae_key]).codec.sae.W_dec
    np.testing.assert_allclose(rows["decoder_norm"], decoder.norm(dim=1), rtol=1e-5)
    assert {len(tokens) for tokens in rows["top_tokens"]} == {10}


@pytest.mark.parametrize("sae_key", [0, 1])
def test_examples_are_the_strongest_tokens_with_the_text_around_them(built_atlas, direct, sae_key, language_model):
    examples = tables(built_atlas)["examples"].filter(pl.col("sae_key") == sae_key)
    every = np.concatenate(direct[sae_key])
    for [neuron], rows in examples.partition_by("neuron", as_dict=True).items():
        strongest = np.sort(every[:, neuron])[::-1][:10]
        np.testing.assert_allclose(rows["activation"], strongest[strongest > 0], rtol=1e-3)
        assert rows["rank"].to_list() == list(range(1, rows.height + 1))
    assert examples["neuron"].n_unique() == (every.max(axis=0) > 0).sum()
    bos = (True, False)[sae_key]
    for row in examples.iter_rows(named=True):
        text, place = tiny.PROMPTS[row["prompt_id"]], row["position"] - bos
        assert direct[sae_key][row["prompt_id"]][place, row["neuron"]] == pytest.approx(row["activation"], rel=1e-3)
        ids = language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row["token"] == language_model.tokenizer.decode([ids[place]])
        assert row["context"].replace("«", "").replace("»", "") == text
        assert row["context"].split("«")[0] == language_model.tokenizer.decode(ids[:place])


def test_prompts_and_embeddings_are_those_given(built_atlas, encoder, language_model):
    stored = tables(built_atlas)
    assert stored["prompts"]["text"].to_list() == list(tiny.PROMPTS)
    lengths = [len(language_model.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in tiny.PROMPTS]
    assert stored["prompts"]["n_tokens"].to_list() == lengths
    np.testing.assert_allclose(np.stack(stored["embeddings"]["vector"]), encoder.embed(tiny.PROMPTS), atol=1e-5)
    assert stored["atlas"]["state"].item() == "complete"


def test_the_row_of_an_sae_says_how_it_reads(built_atlas, gpt2_folder, sae_folder):
    row = tables(built_atlas)["saes"].row(1, named=True)
    expected = {
        "sae_key": 1, "model": str(gpt2_folder), "release": str(sae_folder), "sae_id": "heads", "d_in": 32, "d_sae": 40,
        "hook_name": "blocks.1.attn.hook_z", "architecture": "standard", "context_size": 32, "prepend_bos": False,
        "normalize_activations": "layer_norm", "reshape_activations": "hook_z", "center_writing_weights": False,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_tables_written_in_small_parts_are_those_written_at_once(few, loaded_once, tmp_path, arguments, monkeypatch):
    for name, size in {"SORTED_ROWS": 100, "COPIED_PROMPTS": 7, "TOKENIZED_PROMPTS": 3}.items():
        monkeypatch.setattr(atlas.building.finish, name, size)
    monkeypatch.setattr(atlas.building.plan, "TOKENIZED_PROMPTS", 3)
    build_atlas(tmp_path / "parts.atlas", FEW, **arguments)
    assert tables(few)["activations"].height > 200
    assert_same(tables(tmp_path / "parts.atlas"), tables(few))


def test_building_again_loads_nothing_and_changes_nothing(atlas_file, arguments, monkeypatch):
    for name in ("load_language_model", "load_sae", "load_encoder"):
        monkeypatch.setattr(atlas.building.build, name, None)
    before = atlas_file.read_bytes()
    report = build_atlas(atlas_file, collect_texts(tiny.PROMPTS[10:20]), **arguments)
    assert (report.prompts, report.new_prompts, report.new_saes, report.shards) == (60, 0, 0, 0)
    assert not report.sorted
    assert report.rows == tables(atlas_file)["activations"].height
    assert atlas_file.read_bytes() == before


def test_prompts_and_saes_added_later_give_the_same_atlas_as_all_at_once(tmp_path, loaded_once, arguments, monkeypatch):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 8)
    at_once, in_steps = tmp_path / "at_once.atlas", tmp_path / "in_steps.atlas"
    first, both = arguments["saes"][:1], arguments["saes"]
    build_atlas(at_once, FEW, **arguments)
    steps = [
        build_atlas(in_steps, collect_texts(FEW.texts[:9]), model=arguments["model"], saes=first),
        build_atlas(in_steps, collect_texts(FEW.texts[:9]), model=arguments["model"], saes=both[1:]),
        build_atlas(in_steps, collect_texts(FEW.texts[7:]), model=arguments["model"], saes=first, batch_size=3),
    ]
    assert [(s.prompts, s.new_prompts, s.new_saes, s.shards) for s in steps] == [
        (9, 9, 1, 2),
        (9, 0, 1, 2),
        (20, 11, 0, 2),
    ]
    expected = tables(at_once, without=("shards",))
    assert_same(tables(in_steps, without=("shards",)), expected, rel_tol=1e-4, abs_tol=1e-5)
    assert dying.leftovers(in_steps) == []


MOMENTS = [
    ("call", "replace_file"),  # the empty file is made
    ("progress", "what the neurons of heads write", 0),
    ("progress", "prompts", 0),
    ("progress", "prompts", random.Random(1).randrange(4, 16, 4)),
    ("sql", "finish_shard", 3),
    ("progress", "prompts", 4),
    ("progress", "sorting the tables", 0),
    ("call", "add_context"),
    ("sql", "settle_neurons", 1),
    ("call", "replace_file"),  # the new file is whole
]


def test_a_build_killed_again_and_again_ends_with_the_tables_of_one_that_was_not(
    tmp_path, loaded_once, arguments, elsewhere, monkeypatch, encoder
):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", dying.SHARD_PROMPTS)
    calm, killed = tmp_path / "calm.atlas", tmp_path / "killed.atlas"
    arguments |= {"prompts": FEW, "batch_size": dying.BATCH_SIZE}
    build_atlas(calm, **arguments)
    assert elsewhere(dying.kill_builds, {"path": killed, **arguments}, MOMENTS) == 0
    assert tables(killed)["atlas"]["state"].item() == "building"
    with pytest.raises(StoreError, match=r"is unfinished \(0 pieces to go\): run the same `atlas build` command again"):
        score_topics(Store(killed), {"sea": collect_texts(tiny.SEA)}, embed=encoder.embed)
    report = build_atlas(killed, **arguments)
    assert (report.prompts, report.shards, report.sorted) == (20, 0, True)
    assert_same(tables(killed), tables(calm))
    assert dying.leftovers(killed) == []


def test_an_interrupted_build_keeps_its_finished_shards(tmp_path, loaded_once, arguments, monkeypatch, encoder):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 8)

    def stop(stage, done, total):
        if stage == "prompts" and done > 8:
            raise KeyboardInterrupt

    path = tmp_path / "x.atlas"
    with pytest.raises(KeyboardInterrupt):
        build_atlas(path, FEW, **arguments, progress=stop)
    with pytest.raises(StoreError, match=r"is unfinished \(4 pieces to go\)"):
        score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=encoder.embed)
    calls = []
    report = build_atlas(path, FEW, **arguments, progress=lambda *call: calls.append(call))
    assert (report.new_prompts, report.new_saes, report.shards) == (0, 0, 2)
    assert [call for call in calls if call[0] == "prompts"] == [("prompts", done, 12) for done in (0, 8, 12)]


FULL = "the disk is full while writing {}: free some space and run the same command again"


def test_a_full_disk_is_said_in_one_line_and_a_later_build_completes(
    tmp_path, loaded_once, arguments, elsewhere, monkeypatch
):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", dying.SHARD_PROMPTS)
    calm, path = tmp_path / "calm.atlas", tmp_path / "full.atlas"
    arguments |= {"prompts": FEW, "batch_size": dying.BATCH_SIZE}
    build_atlas(calm, **arguments)
    mine, theirs = Pipe()
    limits = [100_000, calm.stat().st_size - 100_000]  # no room for an empty atlas; none for the finished one
    assert elsewhere(dying.fill_disk, {"path": path, **arguments}, limits, theirs) == 0
    messages, written = zip(*(mine.recv() for _ in limits), strict=True)
    assert [message.replace(".new", "") for message in messages] == [FULL.format(path)] * 2
    assert written == ("", "")
    build_atlas(path, **arguments)
    assert_same(tables(path), tables(calm))
    assert dying.leftovers(path) == []


def test_a_full_disk_takes_nothing_from_a_finished_atlas(few, arguments, elsewhere):
    before, size = tables(few), few.stat().st_size
    arguments |= {"prompts": collect_texts(tiny.PROMPTS[:32]), "batch_size": dying.BATCH_SIZE}
    mine, theirs = Pipe()
    limits = [4_000, 50_000, size + 10_000]  # no room for the plan; for a shard; for the sorted tables
    assert elsewhere(dying.fill_disk, {"path": few, **arguments}, limits, theirs) == 0
    assert [mine.recv() for _ in limits] == [(FULL.format(few), "")] * 3
    after = tables(few)
    for name in ("activations", "embeddings", "prompt_totals", "prompts"):
        kept = after[name].filter(pl.col("prompt_id") < FEW_COUNT)
        assert_frame_equal(kept, before[name], check_row_order=False)
    assert build_atlas(few, **arguments).prompts == 32


def test_another_model_is_refused(tmp_path, few, arguments):
    other = tiny.save_gpt2(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match="this model is not the one the atlas was built with"):
        build_atlas(few, collect_texts(["new"]), model=str(other), saes=arguments["saes"])
    assert tables(few)["prompts"].height == 20


def test_the_same_model_in_another_folder_is_accepted(tmp_path, few, arguments, gpt2_folder):
    moved = shutil.copytree(gpt2_folder, tmp_path / "moved")
    assert build_atlas(few, collect_texts(["new"]), model=str(moved), saes=arguments["saes"]).new_prompts == 1


def test_saes_in_another_folder_are_known_by_their_weights_and_recorded_there(tmp_path, loaded_once, arguments):
    path, folder, moved = tmp_path / "x.atlas", tmp_path / "saes", tmp_path / "moved"
    tiny.save_sae(tiny.make_kind("topk"), folder / "mine")
    tiny.save_sae(tiny.make_kind("jumprelu"), folder / "other")
    build_atlas(path, FEW, model=arguments["model"], saes=[(str(folder), "mine"), (str(folder), "other")])
    folder.rename(moved)
    before = path.stat().st_mtime_ns
    with pytest.raises(ModelError, match=f"SAE other of this atlas is not at {folder} any more: name it too"):
        build_atlas(path, collect_texts(["new"]), model=arguments["model"], saes=[(str(moved), "mine")])
    assert path.stat().st_mtime_ns == before
    report = build_atlas(path, FEW, model=arguments["model"], saes=[(str(moved), "other"), (str(moved), "mine")])
    assert (report.new_saes, report.shards) == (0, 0)
    assert tables(path)["saes"].sort("sae_key")["release"].to_list() == [str(moved)] * 2
    again = build_atlas(path, collect_texts(["new"]), model=arguments["model"], saes=[(str(moved), "mine")])
    assert (again.new_prompts, again.new_saes) == (1, 0)


def test_a_refused_first_build_leaves_no_file(tmp_path, arguments):
    with pytest.raises(ModelError, match="cannot load language model"):
        build_atlas(tmp_path / "x.atlas", FEW, model=str(tmp_path / "nothing"), saes=arguments["saes"])
    with pytest.raises(UnknownName, match="nope"):
        build_atlas(tmp_path / "x.atlas", FEW, model=arguments["model"], saes=[(arguments["saes"][0][0], "nope")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["weights", "settings", "architecture"])
def test_another_sae_under_a_known_name_is_refused(tmp_path, loaded_once, arguments, change):
    folder, path = tmp_path / "saes", tmp_path / "x.atlas"
    tiny.save_sae(tiny.make_kind("topk"), folder / "mine")
    build_atlas(path, FEW, model=arguments["model"], saes=[(str(folder), "mine")])
    other = {
        "weights": tiny.make_kind("topk", seed=5),
        "settings": tiny.make_sae("topk", tiny.D_MODEL, 24, "blocks.0.hook_resid_post", k=9),
        "architecture": tiny.make_kind("standard"),
    }[change]
    tiny.save_sae(other, folder / "mine")
    with pytest.raises(StoreError, match=r"this SAE is not the one the atlas was built with \(mine\)"):
        build_atlas(path, collect_texts(["new"]), model=arguments["model"], saes=[(str(folder), "mine")])


def test_another_encoder_is_refused(few, arguments, encoder, monkeypatch):
    other = dataclasses.replace(encoder, name="mine/other", source="folder", encoder_hash="other")
    monkeypatch.setattr(atlas.building.build, "load_encoder", lambda *args, **options: other)
    with pytest.raises(
        StoreError, match=r"encoder mine/other \(folder\) is not the one this atlas was built with, sentence-"
    ):
        build_atlas(few, collect_texts(["new"]), **arguments)
    assert tables(few)["prompts"].height == 20


@pytest.mark.parametrize(
    ("sae_id", "error", "message"),
    [
        ("too-wide", ModelError, "SAE too-wide has d_in 40, but blocks.0.hook_resid_post of .* is 32 wide"),
        ("temporal", ModelError, "architecture temporal is not supported"),
        ("nothing", UnknownName, "unknown SAE in folder .* 'nothing': known are .*heads"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused_and_the_atlas_can_still_be_built(
    tmp_path, loaded_once, arguments, sae_folder, sae_id, error, message
):
    path = tmp_path / "x.atlas"
    with pytest.raises(error, match=message):
        build_atlas(path, FEW, model=arguments["model"], saes=[*arguments["saes"], (str(sae_folder), sae_id)])
    assert not path.exists() or tables(path)["saes"].height == 0
    assert build_atlas(path, collect_texts(tiny.PROMPTS[:4]), **arguments).prompts == 4


def test_an_sae_for_another_models_layer_is_refused(few, arguments, tmp_path):
    tiny.save_sae(tiny.make_kind("standard", hook_name="blocks.7.hook_resid_post"), tmp_path / "saes" / "deep")
    with pytest.raises(ModelError, match=r"the model has no hook blocks\.7\.hook_resid_post"):
        build_atlas(few, FEW, model=arguments["model"], saes=[(str(tmp_path / "saes"), "deep")])


def test_a_model_that_is_not_there_is_named(tmp_path, arguments):
    with pytest.raises(ModelError, match="cannot load language model nobody/nothing: .*; check the name"):
        build_atlas(tmp_path / "x.atlas", FEW, model="nobody/nothing", saes=arguments["saes"])


@pytest.mark.parametrize(
    ("place", "message"),
    [(".", "is a folder: name an atlas file in it"), ("nowhere/x.atlas", "nowhere")],
    ids=["a folder", "in a folder that is not there"],
)
def test_a_place_where_no_file_can_be_is_refused_before_anything_is_loaded(
    tmp_path, arguments, monkeypatch, place, message
):
    monkeypatch.setattr(atlas.building.build, "load_language_model", None)
    with pytest.raises(StoreError, match=message):
        build_atlas(tmp_path / place, FEW, **arguments)


def test_a_file_that_is_no_atlas_is_not_overwritten(tmp_path, arguments):
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader")
    with pytest.raises(StoreError, match=r"letter\.txt is not an atlas"):
        build_atlas(path, FEW, **arguments)
    assert path.read_text() == "Dear reader"


def test_a_prompt_longer_than_the_context_is_cut_and_counted(tmp_path, loaded_once, arguments):
    long = "The ship sailed before the storm and " * 5
    path = tmp_path / "x.atlas"
    report = build_atlas(path, collect_texts([long, "Rain."]), model=arguments["model"], saes=arguments["saes"][:1])
    assert report.truncated == 1
    stored = tables(path)
    assert stored["prompts"]["n_tokens"].to_list()[0] == tiny.CONTEXT - 1
    assert stored["examples"]["position"].max() == tiny.CONTEXT - 1
    assert stored["prompts"]["text"][0] == long.strip()


def test_a_prompt_on_which_nothing_counts_has_totals_of_zero(tmp_path, loaded_once, arguments):
    path = tmp_path / "x.atlas"
    build_atlas(path, collect_texts(["<|endoftext|>", "Rain."]), **arguments)
    stored = tables(path)
    assert stored["prompts"]["n_tokens"].to_list()[0] == 0
    assert stored["prompt_totals"].filter(pl.col("prompt_id") == 0)["sum_total"].to_list() == [0, 0]
    assert stored["activations"]["prompt_id"].unique().to_list() == [1]
    assert stored["neurons"]["mass_mean"].is_finite().all()


def test_topics_and_labels_live_through_an_addition_and_scores_over_fewer_prompts_are_put_aside(
    few, arguments, encoder
):
    topics, config = {"sea": collect_texts(tiny.SEA)}, ScoringConfig(min_support=3)
    old = score_topics(Store(few), topics, embed=lambda t: embed_frame(encoder, t), config=config)["sea"]
    with Store(few).write() as session:
        change(session, "update neurons set label = 'mine' where sae_key = 1 and neuron = 3")
    build_atlas(few, collect_texts(["A new prompt about a ship."]), **arguments)
    with Store(few).read() as session:
        assert session.ask("current_scorings", topic="sea", scorer="distance").height == 0
        assert session.sql("select scoring_id from scores group by all order by all")["scoring_id"].to_list() == old
        assert session.sql("select sae_key, neuron, label from neurons where label is not null").rows() == [
            (1, 3, "mine")
        ]
    new = score_topics(Store(few), topics, embed=None, config=config)["sea"]
    assert set(new).isdisjoint(old)


def test_scores_stay_in_use_when_only_an_sae_is_added(few, arguments, encoder, sae_folder):
    topics, config = {"sea": collect_texts(tiny.SEA)}, ScoringConfig(min_support=3)
    old = score_topics(Store(few), topics, embed=lambda t: embed_frame(encoder, t), config=config)["sea"]
    build_atlas(few, FEW, model=arguments["model"], saes=[(str(sae_folder), "later")])
    with Store(few).read() as session:
        assert session.ask("current_scorings", topic="sea", scorer="distance")["scoring_id"].to_list() == old
    assert len(score_topics(Store(few), topics, embed=None, config=config)["sea"]) == 3
