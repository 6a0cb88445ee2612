"""top, why and search show a neuron's label where it has a good one, and its tokens where not."""

from __future__ import annotations

import json
import shutil
from functools import partial

import polars as pl
import pytest
import tiny
from command import run

import atlas
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts


@pytest.fixture(scope="module")
def scored(built_atlas, tmp_path_factory, encoder):
    path = tmp_path_factory.mktemp("labelled") / "x.atlas"
    shutil.copy(built_atlas, path)
    topics = {"sea": collect_texts(tiny.SEA)}
    score_topics(Store(path), topics, embed=partial(embed_frame, encoder), config=ScoringConfig(null_topics=0))
    return path


@pytest.fixture(scope="module")
def best(scored):
    """The two best neurons of the first SAE."""
    return atlas.open(scored).top("sea", 2, sae_id=0)


@pytest.fixture
def labelled_file(scored, best, tmp_path):
    """The best neuron has a good label, the second one that is not good enough."""
    path = shutil.copy(scored, tmp_path / "x.atlas")
    labels = {"neuron": best["neuron"], "label": ["ships at sea", "odd words"], "quality": [0.8, 0.7]}
    with Store(path).write() as session:
        session.append("labels", pl.DataFrame(labels).with_columns(sae_key=pl.lit(0), source=pl.lit("words")))
    return path


def test_without_labels_a_table_shows_tokens_as_ever(scored):
    code, stdout, _ = run("top", scored, "sea", "-n", "2", "--sae-id", "0")
    assert (code, stdout.split("\n")[0].split()[-2:]) == (0, ["fires_on", "top_tokens"])


def test_a_good_label_stands_in_the_place_of_tokens_and_others_show_theirs_in_brackets(labelled_file, best):
    code, stdout, _ = run("top", labelled_file, "sea", "-n", "2", "--sae-id", "0")
    header, first, second = stdout.splitlines()
    assert (code, header.split()[-1]) == (0, "label")
    assert first.endswith("ships at sea")
    assert second.endswith(f"({' '.join(token.strip() for token in best['fires_on'][1])})")
    assert "odd words" not in stdout


def test_tokens_are_shown_beside_labels_where_asked(labelled_file):
    code, stdout, _ = run("top", labelled_file, "sea", "-n", "2", "--sae-id", "0", "--tokens")
    assert (code, stdout.split("\n")[0].split()[-3:]) == (0, ["label", "fires_on", "top_tokens"])


def test_json_keeps_every_column_and_has_the_label(labelled_file, best):
    code, stdout, _ = run("top", labelled_file, "sea", "-n", "2", "--sae-id", "0", "--format", "json")
    rows = json.loads(stdout)
    assert (code, [row["label"] for row in rows]) == (0, ["ships at sea", None])
    assert [row["fires_on"] for row in rows] == best["fires_on"].to_list()
    assert list(rows[0])[:-1] == best.columns[:-1]


def test_why_names_the_label(labelled_file, best):
    neuron = str(best["neuron"][0])
    code, stdout, _ = run("why", labelled_file, "sea", neuron, "--sae-id", "0", "-n", "1")
    assert code == 0
    assert stdout.splitlines()[0].split()[-1] == "label"
    assert stdout.splitlines()[1].endswith("ships at sea")


def test_search_and_nearest_neurons_give_the_label(labelled_file, best):
    opened = atlas.open(labelled_file)
    vector = opened.sql("select vector from topic_texts limit 1")["vector"][0].to_list()
    opened.search("a boat on the sea")  # an atlas of today has vectors
    found = opened.sql(f"select neuron, label from search_neurons({vector}, 100, sae := 0)")
    assert dict(found.rows())[best["neuron"][0]] == "ships at sea"
    found = opened.sql(f"select neuron, label from nearest_neurons({best['neuron'][1]}, 100, sae := 0)")
    assert dict(found.rows())[best["neuron"][0]] == "ships at sea"
    found = opened.sql("select neuron, label from neuron_scores where label is not null")
    assert found.rows() == [(best["neuron"][0], "ships at sea")]
