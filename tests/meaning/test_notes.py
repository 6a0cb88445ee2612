"""Notes: a neuron is in a list once, what was said is not lost, and a list is gone with its last neuron."""

from __future__ import annotations

import shutil

import handmade
import numpy as np
import pytest
from command import run

import atlas
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.meaning.notes import LONGEST_NAME, LONGEST_TEXT, add_notes, read_notes, remove_notes
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store

RNG = np.random.default_rng(0)
RAW = handmade.random_raw(RNG, 30, 8)
HOSTILE = "<script>alert(1)</script>'; drop table notes; --\n\u202e"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "x.atlas"
    return handmade.make_store(path, [RAW, RAW], handmade.unit_vectors(RNG, 30)).path


@pytest.fixture
def opened(made, tmp_path):
    return atlas.open(shutil.copy(made, tmp_path / "x.atlas"))


def said(opened, name=None):
    return opened.notes(name).select("list", "sae_key", "neuron", "text").rows()


def test_neurons_are_put_into_lists_and_taken_out_again(opened):
    assert opened.notes().is_empty()
    opened.add_notes([3, 1, 3], "blood", name="good", sae_id=0)
    opened.add_notes(1, sae_id=1)
    assert said(opened) == [("good", 0, 1, "blood"), ("good", 0, 3, "blood"), ("notes", 1, 1, "")]
    assert opened.lists().select("list", "neurons").rows() == [("good", 2), ("notes", 1)]
    opened.remove_notes("good", 3, sae_id=0)
    assert said(opened, "good") == [("good", 0, 1, "blood")]
    opened.remove_notes("good", [1], sae_id=0)
    assert opened.lists()["list"].to_list() == ["notes"]
    opened.remove_notes("notes")
    assert opened.notes().is_empty()


def test_what_was_said_stays_unless_something_else_is(opened):
    opened.add_notes([1, 2], "first", name="a", sae_id=0)
    before = opened.notes("a")["created_at"].to_list()
    opened.add_notes([2, 3], name="a", sae_id=0)
    assert said(opened, "a") == [("a", 0, 1, "first"), ("a", 0, 2, "first"), ("a", 0, 3, "")]
    assert opened.notes("a")["created_at"].to_list()[:2] == before
    opened.add_notes(2, "second", name="a", sae_id=0)
    assert said(opened, "a")[1] == ("a", 0, 2, "second")
    Store(opened.store.path).check()


def test_neurons_of_several_saes_go_into_a_list_at_once(opened):
    add_notes(opened.store, {0: [1, 2], 1: [2]}, name="lasso", text="")
    assert [row[1:3] for row in said(opened)] == [(0, 1), (0, 2), (1, 2)]
    remove_notes(opened.store, "lasso", {0: [2], 1: [2]})
    assert [row[1:3] for row in said(opened)] == [(0, 1)]


def test_a_list_is_renamed_but_not_into_another(opened):
    opened.add_notes(1, name="a", sae_id=0)
    opened.add_notes(1, name="b", sae_id=0)
    opened.rename_list("a", " c ")
    assert opened.lists()["list"].to_list() == ["b", "c"]
    opened.rename_list("c", "c")
    with pytest.raises(AtlasError, match="there is a list 'b' already"):
        opened.rename_list("c", "b")
    with pytest.raises(UnknownName, match="unknown list 'a': known are b, c"):
        opened.rename_list("a", "d")


@pytest.mark.parametrize("name", ["", "  ", "x" * (LONGEST_NAME + 1), "a\nb", "a\u2028b"])
def test_a_name_is_a_line(opened, name):
    with pytest.raises(AtlasError, match="is no name for a list"):
        opened.add_notes(1, name=name, sae_id=0)
    assert opened.lists().is_empty()


def test_what_cannot_be_is_refused_and_nothing_is_changed(opened):
    opened.add_notes(1, "said", name="a", sae_id=0)
    before = said(opened)
    with pytest.raises(UnknownName, match="unknown neuron '8': known are 0 to 7"):
        opened.add_notes([2, 8], name="a", sae_id=0)
    with pytest.raises(UnknownName, match="unknown SAE"):
        add_notes(opened.store, {7: [1]})
    with pytest.raises(AtlasError, match="no neuron is given"):
        opened.add_notes([], name="a", sae_id=0)
    with pytest.raises(AtlasError, match="too long"):
        opened.add_notes(1, "x" * (LONGEST_TEXT + 1), name="a", sae_id=0)
    with pytest.raises(AtlasError, match="neuron 2 of SAE 0 is not in the list 'a'"):
        opened.remove_notes("a", [1, 2], sae_id=0)
    with pytest.raises(UnknownName, match="unknown list 'b'"):
        opened.remove_notes("b")
    with pytest.raises(UnknownName, match="unknown list 'b'"):
        opened.notes("b")
    with pytest.raises(AtlasError, match="2 SAEs to choose from"):
        opened.add_notes(1)
    assert said(opened) == before


def test_hostile_texts_stay_texts(opened):
    name = HOSTILE.splitlines()[0]
    opened.add_notes(1, HOSTILE, name=name, sae_id=0)
    assert said(opened, name) == [(name, 0, 1, HOSTILE)]
    card = opened.notes(name)._repr_html_()
    assert "<script" not in card
    assert "\u202e" not in card
    assert "&lt;script&gt;" in card
    with pytest.raises(StoreError, match="holds a character that no UTF-8 text has"):
        opened.add_notes(1, name="a\udc80", sae_id=0)


def test_an_export_carries_notes(opened, tmp_path):
    opened.add_notes([1, 2], HOSTILE, name="a", sae_id=0)
    export_atlas(opened.store, tmp_path / "out")
    import_atlas(tmp_path / "out", tmp_path / "y.atlas")
    assert read_notes(Store(tmp_path / "y.atlas")).equals(read_notes(opened.store))


def test_a_neuron_says_which_lists_it_is_in(opened):
    opened.add_notes(1, "red", name="a", sae_id=0)
    opened.add_notes([1, 2], name="b", sae_id=0)
    opened.add_notes(1, name="c", sae_id=1)
    found = opened.neuron(1, sae_id=0, live=False)
    assert found.notes.select("list", "text").rows() == [("a", "red"), ("b", "")]
    assert "red" in found._repr_html_()


def test_the_command_adds_prints_removes_and_renames(opened):
    path = opened.store.path
    code, stdout, _ = run("notes", path, "3", "1", "--sae-id", "0", "--list", "good", "--text", "blood")
    assert code == 0
    assert [line.split()[:4] for line in stdout.splitlines()[1:]] == [
        ["good", "sae-0", "1", "blood"],
        ["good", "sae-0", "3", "blood"],
    ]
    assert run("notes", path, "--list", "good", "--rename", "better")[1].splitlines()[1].startswith("better")
    code, stdout, _ = run("notes", path, "3", "--sae-id", "0", "--list", "better", "--remove", "--format", "json")
    assert code == 0
    assert stdout.count('"list":"better"') == 1
    assert run("notes", path, "--list", "better", "--remove")[1].endswith("(no rows)\n")
    assert run("notes", path)[1].endswith("(no rows)\n")
    assert run("notes", path, "--list", "better") == (1, "", "Error: unknown list 'better': there is no list yet\n")


@pytest.mark.parametrize(
    "arguments",
    [["--remove"], ["--rename", "x"], ["--list", "a", "--remove", "--text", "x"], ["--list", "a", "--text", "x"]],
)
def test_what_the_command_cannot_make_sense_of_is_said(opened, arguments):
    assert run("notes", opened.store.path, *arguments)[0] == 2
