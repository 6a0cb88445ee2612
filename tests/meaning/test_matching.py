"""Neurons are matched by meaning: with the truth known, every neuron finds itself in a permuted, wider or other SAE."""

from __future__ import annotations

import shutil

import duckdb
import handmade
import numpy as np
import polars as pl
import pytest
from command import run

import atlas
import atlas.meaning.matching
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.store.file import Store

PROMPTS, NEURONS, WIDTH = 200, 30, 8
RNG = np.random.default_rng(7)
VECTORS = handmade.unit_vectors(RNG, PROMPTS, WIDTH)
RAW = handmade.random_raw(RNG, PROMPTS, NEURONS)
ORDER = RNG.permutation(NEURONS)
OTHERS = handmade.random_raw(RNG, PROMPTS, 20)
TOTALS = RAW.sum(axis=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An SAE, itself permuted, and itself permuted with 20 more neurons; the prompts' totals are the same for all."""
    wider = np.concatenate([RAW[:, :, ORDER], OTHERS], axis=2)
    path = tmp_path_factory.mktemp("match") / "x.atlas"
    return handmade.make_store(path, [RAW, RAW[:, :, ORDER], wider], VECTORS, TOTALS)


@pytest.fixture(scope="module")
def opened(store):
    return atlas.open(store.path)


@pytest.mark.parametrize("to", [1, 2])
@pytest.mark.parametrize("block", [7, 2048])
def test_every_neuron_finds_itself_in_a_permuted_and_in_a_wider_sae(opened, monkeypatch, to, block):
    monkeypatch.setattr(atlas.meaning.matching, "BLOCK", block)
    found = opened.match(sae_id=0, to=to)
    assert found["neuron"].to_list() == list(range(NEURONS - 1))  # the last never fires
    assert [int(ORDER[place]) for place in found["other_neuron"]] == found["neuron"].to_list()
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-5)
    assert found["mutual"].all()


def test_a_neuron_that_is_nearest_to_one_that_has_a_nearer_one_is_not_mutual(opened):
    found = opened.match(sae_id=2, to=0)
    assert found.filter(pl.col("neuron") < NEURONS)["mutual"].all()
    assert not found.filter(pl.col("neuron") >= NEURONS)["mutual"].any()
    assert found.filter(pl.col("neuron") >= NEURONS)["cosine"].max() < 0.999


def test_matches_are_those_of_the_macro_nearest_neurons(opened):
    found = opened.match(sae_id=2, to=0)
    for row in found.tail(5).iter_rows(named=True):
        nearest = opened.sql(f"from nearest_neurons({row['neuron']}, 1, sae := 2, other := 0)").row(0, named=True)
        assert row["other_neuron"] == nearest["neuron"]
        assert row["cosine"] == pytest.approx(nearest["cosine"], abs=1e-5)


def test_another_file_is_matched_too_and_only_with_the_same_encoder(store, opened, tmp_path):
    path = shutil.copy(store.path, tmp_path / "y.atlas")
    assert opened.match(path, sae_id=0, to=1)["mutual"].all()
    with Store(path).write() as session:
        session._execute("update atlas set encoder_hash = 'another', encoder = 'other-encoder'")
    with pytest.raises(AtlasError, match=r"sentence encoder none, .*y.atlas another \(other-encoder\)"):
        opened.match(path, sae_id=0, to=1)


def test_another_file_is_checked_like_any(store, opened, tmp_path):
    path = shutil.copy(store.path, tmp_path / "y.atlas")
    with duckdb.connect(str(path)) as connection:
        connection.execute("delete from neurons where neuron = 3")
    with pytest.raises(StoreError, match=r"y.atlas is damaged"):
        opened.match(path, sae_id=0, to=1)


def test_what_cannot_be_matched_is_refused_in_a_line(opened):
    with pytest.raises(AtlasError, match="SAE 1 of .* is to be matched with itself"):
        opened.match(sae_id=1, to=1)
    with pytest.raises(
        AtlasError, match=r"has 3 SAEs to choose from, 0 \(sae-0\), 1 \(sae-1\), 2 \(sae-2\): give one as sae_id"
    ):
        opened.match()
    with pytest.raises(AtlasError, match="has 2 SAEs to choose from, .*: give one as to"):
        opened.match(sae_id=0)
    with pytest.raises(UnknownName):
        opened.match(sae_id=0, to="none")


def test_the_command_says_how_many_are_mutual(store):
    code, stdout, _ = run("match", store.path, "--sae-id", "0", "--to", "1", "-n", "3")
    assert code == 0
    assert stdout.splitlines()[0] == "29 neurons, 29 of them mutual; median cosine 1.000"
    assert len(stdout.splitlines()) == 6
