"""Explanations of Neuronpedia's exports become labels of the SAE they are of, or it is said in one line why not."""

from __future__ import annotations

import gzip
import json

import handmade
import numpy as np
import polars as pl
import pytest
from command import run

import atlas
from atlas.errors import AtlasError, PromptError
from atlas.meaning.label_import import import_labels
from atlas.meaning.label_quality import split_prompts
from atlas.store.file import Store
from atlas.texts.explanations import LONGEST_LINE, LONGEST_TEXT, read_explanations

RNG = np.random.default_rng(0)
PROMPTS, NEURONS = 40, 12
OURS = "gpt2-small/8-res-jb"


def line(index, description, **more):
    """A line as the exports have it."""
    row = {
        "id": "cx1", "modelId": "gpt2-small", "layer": "8-res-jb", "index": str(index), "authorId": "a",
        "description": description, "embedding": "[0.1,0.2]", "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini", "umap_x": 0.5, "umap_y": 1.5, "umap_cluster": 3,
        "umap_log_feature_sparsity": -2.5,
    }  # fmt: skip
    return json.dumps(row | more)


def raw_line(**more):
    return json.dumps(json.loads(line(1, "x")) | more)


def write(path, *lines):
    """A file of lines, gzipped where its name says so."""
    data = "".join(f"{one}\n" for one in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def path(tmp_path):
    """An atlas of two SAEs, of which Neuronpedia knows the first."""
    raws = [handmade.random_raw(RNG, PROMPTS, NEURONS) for _ in "12"]
    store = handmade.make_store(tmp_path / "x.atlas", raws, handmade.unit_vectors(RNG, PROMPTS))
    with store.write() as session:
        session._execute(f"update saes set neuronpedia_id = '{OURS}' where sae_key = 0")
    return store.path


def labels(path, key=0):
    with Store(path).read() as session:
        found = session.sql(
            "select neuron, label from labels where source = 'neuronpedia' and sae_key = $key order by 1", key=key
        )
    return dict(found.rows())


def test_a_folder_of_batches_is_read_whole_and_the_newest_explanation_of_a_neuron_counts(path, tmp_path):
    folder = tmp_path / "explanations"
    folder.mkdir()
    write(folder / "batch-10.jsonl.gz", line(9, "the last"), line(3, " ships,\n at\u0000sea "))
    write(
        folder / "batch-2.jsonl.gz",
        line(0, "older", createdAt="2024-01-02T00:00:00Z"),
        line(0, "newest", createdAt="2025-01-02T00:00:00Z"),
        line(0, "old", createdAt="2024-03-02T00:00:00Z"),
        line(9, "the first"),
        line(5, ""),
        line(6, None),
    )
    (folder / "README.md").write_text("no explanations")
    told = []
    found = atlas.open(path).import_labels(folder, tell=told.append)
    assert labels(path) == {0: "newest", 3: "ships, at sea", 9: "the last"}
    assert found.select("sae_key", "neuron", "label", "quality", "shown").rows() == [
        (0, 0, "newest", None, True), (0, 3, "ships, at sea", None, True), (0, 9, "the last", None, True),
    ]  # fmt: skip
    assert told[0] == (
        f"6 explanations of {OURS}: 3 of the 12 neurons of sae-0 labelled; 3 left out for newer ones of the same neuron"
    )
    assert len(told) == 2
    assert told[1].startswith("the labels' quality is not measured: cannot load sentence encoder none")


def test_the_quality_is_the_share_of_pairs_in_which_a_strong_prompt_is_closer_than_another(tmp_path):
    raw, embeddings = handmade.random_raw(RNG, 10 * PROMPTS, NEURONS), handmade.unit_vectors(RNG, 10 * PROMPTS)
    path = handmade.make_store(tmp_path / "large.atlas", [raw], embeddings).path
    vectors = {"ships": handmade.unit_vectors(RNG, 1)[0], "the sea": handmade.unit_vectors(RNG, 1)[0]}
    file = write(tmp_path / "a.jsonl", line(7, "ships"), line(2, "the sea"))

    def embed(texts):
        return pl.DataFrame(
            {"vector": pl.Series([vectors[text].tolist() for text in texts], dtype=pl.List(pl.Float32))}
        )

    import_labels(Store(path), file, embed=embed, sae_key=0, tell=print)
    opened = atlas.open(path)
    testing = split_prompts(10 * PROMPTS)[1].tolist()
    stored = opened.sql("select neuron, quality from labels where source = 'neuronpedia' order by neuron").rows()
    assert [neuron for neuron, _ in stored] == [2, 7]
    for (neuron, quality), text in zip(stored, ("the sea", "ships"), strict=True):
        fired = opened.sql(
            f"select prompt_id from activations where sae_key = 0 and neuron = {neuron} and prompt_id in "
            f"({', '.join(map(str, testing))}) order by act_max desc, prompt_id limit 10"
        )["prompt_id"].to_list()
        close = {
            one: float(np.dot(vector, vectors[text]))
            for one, vector in opened.sql("select prompt_id, vector from embeddings").iter_rows()
            if one in testing
        }
        pairs = [close[own] > close[other] for own in fired for other in testing if other not in fired]
        assert len(fired) == 10
        assert quality == pytest.approx(np.mean(pairs))


def test_a_second_import_replaces_the_first_and_no_other_labels(path, tmp_path):
    with Store(path).write() as session:
        own = {
            "sae_key": [0, 1],
            "neuron": [1, 1],
            "source": ["user", "neuronpedia"],
            "label": ["mine", "of another SAE"],
        }
        session.append("labels", pl.DataFrame(own, schema_overrides={"sae_key": pl.UInt32, "neuron": pl.UInt32}))
    opened = atlas.open(path)
    opened.import_labels(write(tmp_path / "a.jsonl", line(1, "first"), line(2, "first")), tell=print)
    opened.import_labels(write(tmp_path / "b.jsonl", line(2, "second")), tell=print)
    assert labels(path) == {2: "second"} and labels(path, 1) == {1: "of another SAE"}
    with Store(path).read() as session:
        assert session.sql("select label from neuron_labels where neuron = 1 and sae_key = 0").item() == "mine"


def test_an_sae_that_is_named_gets_them_and_it_is_said_that_it_is_not_known_as_theirs(path, tmp_path):
    told = []
    atlas.open(path).import_labels(write(tmp_path / "a.jsonl", line(1, "one")), sae_id=1, tell=told.append)
    assert labels(path, 1) == {1: "one"} and labels(path) == {}
    assert (
        told[1]
        == "sae-1 is unknown to Neuronpedia as far as this atlas knows: check that the explanations are of this SAE"
    )
    atlas.open(path).import_labels(
        write(tmp_path / "b.jsonl", line(1, "two", layer="9-res-jb")), sae_id="sae-0", tell=told.append
    )
    assert told[4].startswith(f"sae-0 is Neuronpedia's {OURS} as far as this atlas knows")


@pytest.mark.parametrize(
    ("lines", "sae_id", "message"),
    [
        ([line(NEURONS, "too far")], None, r"line 1 explains neuron 12, and sae-0 has 12 neurons: .* of another SAE"),
        ([line(1, "x", layer="9-res-jb")], None, r"9-res-jb', and no SAE has this id .*\(sae-1: no id\): say with --sae-id"),
        ([line(1, "x"), line(1, "x", layer="9-res-jb")], 0, "line 2 explains 'gpt2-small/9-res-jb', and lines above it"),
        ([line(1, "")], None, "explains no neuron"),
    ],
)  # fmt: skip
def test_explanations_that_do_not_fit_are_refused_and_nothing_is_lost(path, tmp_path, lines, sae_id, message):
    opened = atlas.open(path)
    opened.import_labels(write(tmp_path / "good.jsonl", line(4, "kept")), tell=print)
    with pytest.raises(AtlasError, match=message) as caught:
        opened.import_labels(write(tmp_path / "bad.jsonl", *lines), sae_id=sae_id, tell=print)
    assert "\n" not in str(caught.value)
    assert labels(path) == {4: "kept"}


def test_explanations_of_two_saes_with_one_id_need_a_name(path, tmp_path):
    with Store(path).write() as session:
        session._execute(f"update saes set neuronpedia_id = '{OURS}'")
    with pytest.raises(AtlasError, match="2 SAEs have this id"):
        atlas.open(path).import_labels(write(tmp_path / "a.jsonl", line(1, "x")), tell=print)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[1]", "line 1 is a JSON array: give a JSON object per line"),
        ('{"index": "1", "description": "x", "layer": "a"}', "line 1 has no modelId: name an export of explanations"),
        (line("x", "x"), "index is 'x', which is no neuron"),
        (line(-1, "x"), "index is '-1', which is no neuron"),
        (line("9" * 30, "x"), "which is no neuron"),
        (raw_line(index=True), "index is True"),
        (raw_line(index=1.5), "index is 1.5"),
        (line(1, ["x"]), "description is a JSON array, which is no text"),
        (line(1, "x", modelId=3), "modelId is 3, which is no text"),
        (line(1, "x" * (LONGEST_TEXT + 1)), "description has 10,001 characters"),
        (line(1, "x" * LONGEST_LINE), "line 1 is longer than 1,048,576 bytes"),
    ],
)
def test_a_line_that_is_no_explanation_is_named_in_one_line(tmp_path, text, message):
    file = write(tmp_path / "a.jsonl.gz", text)
    with pytest.raises(PromptError, match=message) as caught:
        list(read_explanations(file))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_files_that_are_none_are_named(tmp_path):
    good = write(tmp_path / "a.jsonl.gz", *[line(i, f"number {i} {RNG.random()}") for i in range(50)])
    cut, other, latin = tmp_path / "cut.jsonl.gz", tmp_path / "other.jsonl.gz", tmp_path / "latin.jsonl"
    cut.write_bytes(good.read_bytes()[:-200])
    other.write_bytes(b"no gzip at all")
    latin.write_bytes(line(1, "x").encode() + b"\xe9")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    for file, message in (
        (cut, "is damaged .*get it again"),
        (other, "is damaged"),
        (latin, r"is not UTF-8 \(byte "),
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "empty", r"holds no \.jsonl"),
        (tmp_path / "a.txt", "unknown ending '.txt'"),
    ):
        with pytest.raises(PromptError, match=message):
            list(read_explanations(file))
    assert len(list(read_explanations(good))) == 50


def test_the_command_imports_and_says_how_many(path, tmp_path):
    file = write(tmp_path / "a.jsonl", line(1, "ships \u001b[31m at sea"))
    code, stdout, stderr = run("label", path, "--from", file)
    assert code == 0 and stderr.startswith(f"1 explanations of {OURS}: 1 of the 12 neurons of sae-0 labelled\n")
    assert "\u001b" not in stdout and "at sea" in stdout.splitlines()[-1]
    assert json.loads(run("label", path, "--from", file, "--format", "json")[1])[0]["neuron"] == 1
    assert run("label", path, "--from", file, "--compare")[0] == 2
    assert run("label", path, "--from", tmp_path / "none")[0] == 1


def test_labels_that_prompts_came_after_are_named(path):
    def outdated():
        return atlas.open(path).info()["outdated_labels"].rows()

    def change(text):
        with Store(path).write() as session:
            session._execute(text)

    assert outdated() == []
    change("insert into labels values (0, 1, 'words', 'a ship', 0.9, '2026-01-02')")
    assert outdated() == [(1, "sae-1", False)]
    change("insert into labels values (1, 1, 'words', 'a ship', 0.9, '2026-01-02')")
    assert outdated() == []
    change("insert into shards values (0, 7, 0, 40, 1, '2026-01-01'), (1, 7, 0, 40, 1, '2026-01-03')")
    assert outdated() == [(1, "sae-1", True)]
    line = "labels of SAE 1 (sae-1) were made before its last prompts were read: `atlas label` makes them"
    assert line in run("info", path)[1].splitlines()
