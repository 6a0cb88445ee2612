"""A page of a topic's or a list's neurons is one file that needs nothing else."""

from __future__ import annotations

import re
import shutil
from functools import partial

import pytest
import tiny
from command import run

import atlas
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts


@pytest.fixture(scope="module")
def opened(built_atlas, tmp_path_factory, encoder):
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("page") / "x.atlas")
    config = ScoringConfig(min_support=5, null_topics=3)
    score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=partial(embed_frame, encoder), config=config)
    return atlas.open(path)


def test_a_page_of_a_topic_has_its_table_and_a_card_of_each_neuron(opened, tmp_path):
    neurons = opened.export_page(tmp_path / "x.html", topic="sea", n=2)
    page = (tmp_path / "x.html").read_text()
    best = opened.top("sea", 2)
    assert [one.row["neuron"] for one in neurons] == best["neuron"].to_list()
    assert all(one.samples["tokens"].null_count() == 0 for one in neurons)
    ids = re.findall(r'<article class="atlas-card" id="([^"]*)"', page)
    assert ids == [f"neuron-{one.row['sae_key']}-{one.row['neuron']}" for one in neurons]
    assert set(re.findall(r'href="([^"]*)"', page)) == {f"#{name}" for name in ids}
    assert not re.search(r"<script|https?://|<link|@import|\bsrc=", page)
    assert "<title>sea</title>" in page


def test_a_page_of_a_list_has_its_notes(opened, tmp_path):
    opened.add_notes([5, 3], "<b>mine</b>", name="kept", sae_id=1)
    opened.add_notes([2], name="kept", sae_id=0)
    neurons = opened.export_page(tmp_path / "x.html", name="kept", sae_id="heads", live=False)
    assert [(one.row["sae_key"], one.row["neuron"]) for one in neurons] == [(1, 3), (1, 5)]
    page = (tmp_path / "x.html").read_text()
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>mine" not in page
    assert len(opened.export_page(tmp_path / "y.html", name="kept", live=False)) == 3


def test_what_cannot_be_is_said_and_nothing_is_written(opened, tmp_path):
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        opened.export_page(tmp_path / "x.html", topic="sea", live=False)
    assert (tmp_path / "x.html").read_text() == "mine"
    with pytest.raises(AtlasError, match="a topic or about a list"):
        opened.export_page(tmp_path / "y.html")
    with pytest.raises(AtlasError, match="a topic or about a list"):
        opened.export_page(tmp_path / "y.html", topic="sea", name="kept")
    with pytest.raises(UnknownName, match="unknown topic 'river'"):
        opened.export_page(tmp_path / "y.html", topic="river")
    with pytest.raises(UnknownName, match="unknown list 'none'"):
        opened.export_page(tmp_path / "y.html", name="none")
    with pytest.raises(StoreError, match="cannot be written"):
        opened.export_page(tmp_path / "none" / "y.html", topic="sea", n=1, live=False)
    assert not (tmp_path / "y.html").exists()


def test_the_command_writes_a_page_and_says_what_is_on_it(opened, tmp_path):
    path = opened.store.path
    code, stdout, _ = run("export", path, tmp_path / "x.html", "--to", "html", "--topic", "sea", "-n", "1", "--stored")
    assert (code, stdout) == (0, f"{tmp_path / 'x.html'}: 2 neurons\n")
    assert run("export", path, tmp_path / "out", "--topic", "sea")[0] == 2
    assert not (tmp_path / "out").exists()
    code, _, stderr = run("export", path, tmp_path / "y.html", "--to", "html")
    assert code == 1
    assert stderr == "Error: a page is about a topic or about a list: name one of them\n"
