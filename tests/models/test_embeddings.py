"""Embeddings are of length 1, or it is said which text has none; and it is said how many texts the encoder cuts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from command import run
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import atlas
import atlas.building.build
from atlas.errors import ModelError
from atlas.models.embeddings import count_cut, embed_frame, embed_texts, token_limit
from atlas.models.encoders import Encoder
from atlas.texts.prompts import collect_texts

LONG = "word " * 400

pytestmark = pytest.mark.usefixtures("loaded_once")  # commands take models and encoders that are loaded already


def encoder_of(vectors):
    return Encoder("odd", "folder", "hash", SimpleNamespace(encode=lambda texts, **_: np.array(vectors, np.float32)))


@pytest.mark.parametrize("bad", [[np.nan, 1], [0, 0], [np.inf, 0], [3, 4]])
def test_a_text_without_an_embedding_of_length_1_is_named(bad):
    with pytest.raises(
        ModelError, match=r"encoder odd gives no embedding of 'two' \(its length is 0 or no number\): leave"
    ):
        embed_texts(encoder_of([[1, 0], bad]), ["one", "two"])
    with pytest.raises(ModelError, match="of 'one' and 1 more"):
        embed_frame(encoder_of([bad, bad]), ["one", "two"])


def test_embeddings_of_length_1_come_as_they_are(encoder):
    assert embed_frame(encoder, tiny.SEA)["vector"].to_list() == encoder.embed(tiny.SEA).tolist()
    embed_texts(encoder_of(np.array([[0.6, 0.8]], np.float16)), ["one"])


def test_texts_longer_than_the_encoder_reads_are_counted(encoder):
    limit = token_limit(encoder)
    fits = " ".join(["word"] * (limit - 2))  # and two special tokens
    assert count_cut(encoder, ["short", fits]) == 0
    assert count_cut(encoder, ["short", fits + " word", LONG]) == 2
    assert np.array_equal(*encoder.embed([fits, fits + " word"]).round(4))


def test_a_static_encoder_cuts_nothing():
    static = StaticEmbedding(tiny.make_tokenizer().backend_tokenizer, embedding_dim=4)
    encoder = Encoder("static", "folder", "hash", SentenceTransformer(modules=[static]))
    assert token_limit(encoder) is None
    assert count_cut(encoder, [LONG]) == 0


def test_a_build_says_how_many_prompts_the_encoder_cuts_and_how_many_it_cannot_tell_apart(
    tmp_path, gpt2_folder, sae_folder, loaded_once
):
    prompts = [*tiny.PROMPTS[:20], *(f"{LONG} {text}" for text in tiny.PROMPTS[:3]), tiny.PROMPTS[0].upper()]
    place = {"model": str(gpt2_folder), "saes": [(str(sae_folder), "residual")]}
    report = atlas.building.build.build_atlas(tmp_path / "x.atlas", collect_texts(prompts), **place)
    assert (report.cut_by_encoder, report.same_embeddings) == (3, 3)
    again = atlas.building.build.build_atlas(tmp_path / "x.atlas", collect_texts([*prompts, "One more."]), **place)
    assert (again.cut_by_encoder, again.same_embeddings) == (0, 3)


def test_the_commands_say_it_on_stderr_and_python_warns(tmp_path, atlas_file):
    (tmp_path / "long.txt").write_text(f"{LONG}\nA boat on the sea\n")
    code, _, stderr = run("score", atlas_file, "long", tmp_path / "long.txt", "--min-support", 2)
    line = "1 of 2 texts are longer than the sentence encoder reads: their embeddings are of their beginnings only"
    assert (code, line in stderr) == (0, True)
    with pytest.warns(UserWarning, match=line):
        atlas.open(atlas_file).score("longer", [f"{LONG} {LONG}", "Waves"], min_support=2)
    assert "longer than" not in run("score", atlas_file, "long", tmp_path / "long.txt", "--min-support", 2)[2]


def test_many_topics_are_listed_as_one_after_the_other(atlas_file):
    opened = atlas.open(atlas_file)
    topics = {f"topic {i}": [text] for i, text in enumerate(tiny.PROMPTS[::5])}
    opened.score_many(topics, min_support=2)
    names = list(reversed(topics))
    found = opened.top_many(names, 3)
    one = [row for name in names for row in opened.top(name, 3).rows()]
    assert found.rows() == one and len(one) == 6 * len(topics)
    assert opened.top_many(names, 3, sae_id="heads").rows() == [row for row in one if row[2] == "heads"]
