"""A shard gives the same rows wherever and whenever it is computed, and shards may come into the atlas in any order."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import tiny
from contents import assert_same, tables

import atlas.building.plan
from atlas.building.build import build_atlas
from atlas.building.shards import ShardWriter, compute_shard
from atlas.building.strongest import EXAMPLES, Strongest
from atlas.texts.prompts import collect_texts

FEW = collect_texts(tiny.PROMPTS[:20])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, loaded_once):
    monkeypatch.setattr(atlas.building.plan, "SHARD_PROMPTS", 4)


@pytest.fixture
def arguments(gpt2_folder, sae_folder):
    return {"model": str(gpt2_folder), "saes": [(str(sae_folder), "residual"), (str(sae_folder), "heads")]}


def run_backwards(store, models, progress):
    """Compute all shards before any is taken, the last one first."""
    writer = ShardWriter(store, models.saes)
    found = [(shard, compute_shard(shard, writer.prompts(shard), models)) for shard in reversed(writer.pending)]
    for shard, rows in found:
        writer.write(shard, rows)
    return len(found)


def test_shards_taken_backwards_give_the_same_atlas(tmp_path, arguments):
    reports = [
        build_atlas(tmp_path / "forward.atlas", FEW, **arguments, batch_size=2),
        build_atlas(tmp_path / "backward.atlas", FEW, **arguments, batch_size=2, run_shards=run_backwards),
    ]
    assert reports[0] == reports[1]
    assert reports[0].shards == 5
    assert_same(tables(tmp_path / "backward.atlas"), tables(tmp_path / "forward.atlas"))


def test_a_prompt_in_shards_of_two_saes_is_embedded_once(tmp_path, arguments):
    path = tmp_path / "x.atlas"
    build_atlas(path, collect_texts(FEW.texts[:9]), model=arguments["model"], saes=arguments["saes"][:1])
    report = build_atlas(path, FEW, **arguments, run_shards=run_backwards)
    assert (report.new_prompts, report.new_saes, report.shards) == (11, 1, 8)  # 3 for one SAE, 5 for the other
    assert tables(path)["embeddings"]["prompt_id"].to_list() == list(range(20))


def test_a_shard_gives_the_same_again_and_of_its_examples_only_the_strongest_so_far_are_written(tmp_path, arguments):
    given, written = [], []

    def run(store, models, progress):
        writer = ShardWriter(store, models.saes)
        for shard in writer.pending:
            first, again = (compute_shard(shard, writer.prompts(shard), models) for _ in range(2))
            assert first.keys() == again.keys() == {"embeddings", "activations", "prompt_totals", "examples"}
            assert all(first[name].equals(again[name]) for name in first)
            writer.write(shard, first)
            given.append(first["examples"].height)
            with store.read() as session:
                written.append(session.sql("select count(*) from examples").item() - sum(written))
        return len(writer.pending)

    build_atlas(tmp_path / "x.atlas", FEW, **arguments, run_shards=run)
    assert len(given) == 5
    assert written[0] == given[0]
    assert sum(written[3:]) < 0.8 * sum(given[3:])


def test_equally_strong_tokens_are_taken_in_the_order_of_the_prompts():
    rows = pl.DataFrame({
        "neuron": [1] * 30, "prompt_id": list(range(29, -1, -1)), "position": [1] * 30, "activation": [2.0] * 30,
    }, schema={"neuron": pl.UInt32, "prompt_id": pl.UInt32, "position": pl.UInt32, "activation": pl.Float32})  # fmt: skip
    for size in (1, 7, 30):
        strongest = Strongest(3)
        kept = pl.concat([strongest.sift(part) for part in rows.iter_slices(size)])
        best = kept.sort("activation", "prompt_id", descending=[True, False])["prompt_id"].to_numpy()[:EXAMPLES]
        assert np.array_equal(best, np.arange(EXAMPLES)), size
