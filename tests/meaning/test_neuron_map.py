"""A map keeps what is alike together, is made once, is the same for the same seed, and is made again when its neurons change."""

from __future__ import annotations

import shutil
import sys

import handmade
import numpy as np
import polars as pl
import pytest
from command import run

import atlas
import atlas.meaning.neuron_map as neuron_map
from atlas.errors import AtlasError, UnknownName
from atlas.meaning.neuron_map import NEIGHBOURS, ensure_map, nearest_points, place_points
from atlas.store.file import Store

RNG = np.random.default_rng(0)


def clusters(sizes, dimension=16, spread=0.1):
    """Points around as many directions, and whose each is."""
    centres = handmade.unit_vectors(np.random.default_rng(1), len(sizes), dimension)
    whose = np.repeat(np.arange(len(sizes)), sizes)
    return centres[whose] + spread * RNG.standard_normal((len(whose), dimension)), whose


@pytest.fixture(scope="module")
def mapped(built_atlas, tmp_path_factory):
    """An atlas with both maps, and what they are."""
    opened = atlas.open(shutil.copy(built_atlas, tmp_path_factory.mktemp("mapped") / "x.atlas"))
    return opened, {basis: opened.map(basis) for basis in ("vectors", "decoder")}


@pytest.fixture
def opened(mapped, tmp_path):
    return atlas.open(shutil.copy(mapped[0].store.path, tmp_path / "x.atlas"))


def test_points_of_one_cluster_lie_nearer_than_those_of_others():
    points, whose = clusters([60, 60, 60])
    placed = place_points(points)
    distances = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (whose[distances.argmin(axis=1)] == whose).mean() > 0.98


def test_a_map_is_the_same_for_the_same_seed_and_another_for_another():
    points, _ = clusters([20, 20])
    first = place_points(points, seed=3)
    assert (place_points(points, seed=3) == first).all()
    assert (place_points(points, seed=4) != first).any()


def test_the_length_of_a_point_does_not_matter():
    points, _ = clusters([20, 20])
    lengths = 2.0 ** RNG.integers(-3, 4, (40, 1))  # which change no digit
    assert (place_points(points * lengths) == place_points(points)).all()


@pytest.mark.parametrize("count", [1, 2, 3, neuron_map.FEW - 1, neuron_map.FEW, 20])
def test_few_points_have_places_too(count):
    placed = place_points(RNG.standard_normal((count, 5)))
    assert placed.shape == (count, 2)
    assert np.isfinite(placed).all()


def test_points_that_are_zero_or_equal_have_places():
    points = RNG.standard_normal((40, 5))
    points[:3], points[3:8] = 0, points[9]
    assert np.isfinite(place_points(points)).all()


def test_nearest_points_are_those_of_largest_cosine_whatever_the_block(monkeypatch):
    unit = handmade.unit_vectors(RNG, 50)
    monkeypatch.setattr(neuron_map, "BLOCK_VALUES", 350)
    places, distances = nearest_points(unit, 6)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 2)
    assert (places == np.argsort(-cosines, axis=1)[:, :6]).all()
    assert (places[:, 0] == np.arange(50)).all()
    np.testing.assert_allclose(distances[:, 1:], 1 - np.sort(cosines, axis=1)[:, ::-1][:, 1:6], atol=1e-5)


class FakeUmap:
    """Stands in for the library, whose own search for neighbours takes long to get ready."""

    def __init__(self, **settings):
        self.UMAP, self.settings = self.begin, settings

    def begin(self, **settings):
        self.settings = settings
        return self

    def fit_transform(self, points):
        return points[:, :2]


def test_of_more_neurons_than_are_compared_with_all_the_library_finds_the_neighbours(monkeypatch):
    fake, told = FakeUmap(), []
    monkeypatch.setitem(sys.modules, "umap", fake)
    monkeypatch.setattr(neuron_map, "EXACT", 30)
    monkeypatch.setattr(neuron_map, "MANY", 30)
    place_points(clusters([15, 15])[0])
    assert fake.settings["precomputed_knn"][0].shape == (30, NEIGHBOURS)
    place_points(clusters([15, 16])[0], progress=lambda *stage: told.append(stage))
    assert fake.settings["precomputed_knn"] == (None, None, None)
    assert told == [("placing 31 neurons; this takes some minutes", 0, 0)]


def test_points_that_the_library_leaves_out_are_put_beside_the_others(monkeypatch):
    fake = FakeUmap()
    fake.fit_transform = lambda points: np.where(np.arange(len(points))[:, None] == [4, 4], np.nan, 2.0)
    monkeypatch.setitem(sys.modules, "umap", fake)
    placed = place_points(RNG.standard_normal((12, 3)))
    assert placed[4].tolist() == [3, 3]
    assert (np.delete(placed, 4, axis=0) == 2).all()


def test_every_neuron_that_fired_is_on_the_map_of_vectors_and_every_one_on_that_of_decoder_rows(mapped):
    opened, maps = mapped
    fired = opened.sql("select sae_key, neuron from neuron_vectors order by sae_key, neuron")
    assert maps["vectors"].select("sae_key", "neuron").rows() == fired.rows()
    every = opened.sql("select sae_key, neuron from neurons order by sae_key, neuron")
    assert maps["decoder"].select("sae_key", "neuron").rows() == every.rows()
    stored = opened.sql("select sae_key, neuron, x, y from map where basis = 'decoder' order by sae_key, neuron")
    assert stored.rows() == maps["decoder"].select("sae_key", "neuron", "x", "y").rows()


def test_a_map_is_made_once(opened, mapped, monkeypatch):
    monkeypatch.setattr(neuron_map, "place_points", None)
    before = opened.store.path.read_bytes()
    for basis, places in mapped[1].items():
        assert opened.map(basis).equals(places)
    assert opened.store.path.read_bytes() == before


def test_another_seed_or_again_makes_it_anew(opened, mapped):
    other = opened.map("decoder", seed=5)
    assert not other["x"].equals(mapped[1]["decoder"]["x"])
    assert opened.map("decoder").equals(other)
    assert opened.map("decoder", seed=0).equals(mapped[1]["decoder"])
    assert opened.map("decoder", again=True).equals(mapped[1]["decoder"])


def test_a_map_of_other_prompts_is_named_and_made_again(opened, mapped, caplog):
    with opened.store.write() as session:
        session._execute("update atlas set reference_hash = 'more prompts'")
    assert opened.info()["stale_maps"] == {"vectors": 2}
    line = "the map of vectors is stale (prompts or SAEs were added since)"
    assert f"{line}: atlas map {opened.store.path} --basis vectors" in run("info", opened.store.path)[1]
    assert opened.map("vectors").select("x", "y").equals(mapped[1]["vectors"].select("x", "y"))
    assert f"{line}; making it again" in caplog.text
    assert opened.info()["stale_maps"] == {}
    assert "stale" not in run("info", opened.store.path)[1]


def test_a_map_of_another_sae_is_made_again_for_that_one_alone(opened, mapped):
    with opened.store.write() as session:
        session._execute("update map set made_of = 'another', x = 7 where basis = 'decoder' and sae_key = 1")
        session._execute("update map set x = 7 where basis = 'decoder' and sae_key = 0")
    found = opened.map("decoder")
    assert found.filter(pl.col("sae_key") == 0)["x"].unique().to_list() == [7]
    ours = pl.col("sae_key") == 1
    assert found.filter(ours).equals(mapped[1]["decoder"].filter(ours))


def test_an_atlas_in_which_no_neuron_fired_has_no_map_of_vectors(tmp_path):
    store = handmade.make_store(tmp_path / "x.atlas", [np.zeros((3, 4, 5), np.float32)], handmade.unit_vectors(RNG, 4))
    with pytest.raises(AtlasError, match=r"no neuron of .* fired, so there is none to map"):
        ensure_map(store, decoder_rows=lambda row: np.eye(5))
    assert ensure_map(store, "decoder", decoder_rows=lambda row: np.eye(5)).height == 5


def test_what_is_missing_is_said_before_anything_is_computed(opened, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AtlasError, match=r"umap-learn: pip install 'neuron-atlas\[explore\]'"):
        opened.map(again=True)
    assert opened.map().height
    with pytest.raises(UnknownName, match="unknown basis of a map 'prompts'"):
        opened.map("prompts")


def test_progress_is_told(opened):
    told = []
    opened.map(again=True, progress=lambda *stage: told.append(stage))
    assert ("comparing neurons", 57, 57) in told
    assert told[-1] == ("placing 57 neurons", 0, 0)


def test_the_command_says_what_is_on_the_map_and_prints_all_places(opened):
    code, stdout, _ = run("map", opened.store.path)
    assert code == 0
    assert stdout.splitlines()[1].split() == ["0", "residual", "22", "0"]
    code, stdout, _ = run("map", opened.store.path, "--format", "csv")
    assert stdout.splitlines()[0] == "sae_key,sae_id,neuron,x,y,support,density,label"
    assert len(stdout.splitlines()) == 58


def test_a_map_is_kept_through_a_sort_of_the_file(opened, mapped):
    from atlas.building.finish import write_sorted

    with opened.store.read() as session:
        examples = session.sql("from examples")
    write_sorted(opened.store, examples)
    assert opened.sql("from map").height == sum(len(places) for places in mapped[1].values())
    Store(opened.store.path).check()
