"""A copy gives its encoder's vectors, is known by the same hash, and is used only while both hold."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from command import run
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import processors
from transformers import BertConfig, BertModel

import atlas
from atlas.errors import StoreError
from atlas.models import encoder_copies, encoder_export
from atlas.models.digests import digest_array
from atlas.models.embeddings import count_cut, embed_texts, token_limit
from atlas.models.encoder_copies import PROBES, copy_folder, describe_embedding, find_copy
from atlas.models.encoder_export import keep_copy
from atlas.models.encoders import Encoder, load_encoder
from atlas.models.fingerprints import digest_tensor
from atlas.models.recorded_encoder import recorded_encoder

TEXTS = ("The ship sailed.", "", "Ärzte und 医生 🙂", "word " * 100, "  \n ", *tiny.PROMPTS)


def save_encoder(folder, *, seed=0, dtype=torch.float32):
    """A random sentence encoder of one BERT layer, with two special tokens in a text, as a folder."""
    tokenizer = tiny.make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{tiny.END} $A {tiny.END}", special_tokens=[(tiny.END, tokenizer.eos_token_id)]
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=tiny.CONTEXT,
    )  # fmt: skip
    torch.manual_seed(seed)
    BertModel(config).to(dtype).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"), max_seq_length=tiny.CONTEXT)
    SentenceTransformer(modules=[words, Pooling(16)]).save(str(folder / "encoder"))
    return folder / "encoder"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny encoder, and a cache with its copy."""
    cache = tmp_path_factory.mktemp("cache")
    encoder = load_encoder(str(save_encoder(tmp_path_factory.mktemp("tiny"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_CACHE", str(cache))
        told = []
        keep_copy(encoder, lambda *stage: told.append(stage))
        keep_copy(encoder, lambda *stage: told.append(stage))
    assert told == [(encoder_export.STAGE, 0, 0)]
    return encoder, cache


@pytest.fixture
def tiny_encoder(made, tmp_path, monkeypatch):
    """The encoder, and a cache of the test's own."""
    shutil.copytree(made[1], tmp_path / "cache")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    return made[0]


@pytest.fixture
def exported(made, monkeypatch):
    """Tiny encoders need not be exported again: the graph has no weights of its own."""
    [folder] = [one for one in (made[1] / "encoders").iterdir() if one.is_dir()]
    names = load_file(folder / "weights.safetensors")

    def export(model):
        own = model.state_dict()
        return (folder / "graph.onnx").read_bytes(), {name: own[name].numpy() for name in names}

    monkeypatch.setattr(encoder_export, "_export", export)


def recorded(encoder):
    return {"encoder": encoder.name, "encoder_hash": encoder.encoder_hash}


def unheard(line):
    raise AssertionError(line)


def test_the_default_encoders_copy_gives_its_vectors(encoder):
    keep_copy(encoder)
    copied = find_copy(encoder.encoder_hash, unheard)
    texts = [*TEXTS, *PROBES, "The patient was given a new drug. " * 60]
    np.testing.assert_allclose(copied.encode(texts), encoder.embed(texts), atol=1e-5)
    np.testing.assert_allclose(copied.encode(texts[:1]), encoder.embed(texts[:1]), atol=1e-5)
    assert describe_embedding(encoder.encoder_hash).startswith("ONNX Runtime, from ")


def test_a_copy_stands_where_the_encoder_does(tiny_encoder):
    copied = recorded_encoder(recorded(tiny_encoder), None, unheard)
    assert (copied.name, copied.source, copied.encoder_hash) == (tiny_encoder.name, "copy", tiny_encoder.encoder_hash)
    np.testing.assert_allclose(embed_texts(copied, TEXTS), embed_texts(tiny_encoder, TEXTS), atol=1e-5)
    assert copied.embed([]).size == 0
    assert token_limit(copied) == token_limit(tiny_encoder) == tiny.CONTEXT
    assert count_cut(copied, TEXTS) == count_cut(tiny_encoder, TEXTS) > 0


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (3, 1 << 20)])
def test_an_arrays_digest_is_that_of_the_tensor(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert digest_array(tensor.numpy()) == digest_tensor(tensor)


def change_weights(folder):
    weights = load_file(folder / "weights.safetensors")
    name = max(weights, key=lambda name: weights[name].size)
    weights[name][0, 0] += 1
    save_file(weights, folder / "weights.safetensors")


def change_tokenizer(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    words = document["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (folder / "tokenizer.json").write_text(json.dumps(document))


def change_graph(folder):
    (folder / "graph.onnx").write_bytes((folder / "graph.onnx").read_bytes() + b"\0")


def change_settings(folder):
    (folder / "copy.json").write_text("[]")


def take_for_another_runtime(folder):
    settings = json.loads((folder / "copy.json").read_text())
    (folder / "copy.json").write_text(json.dumps(settings | {"runtime": "0.1"}))


def take_for_another_runtime_with_other_vectors(folder):
    take_for_another_runtime(folder)
    np.save(folder / "vectors.npy", np.load(folder / "vectors.npy") + 1e-3)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_weights, "its weights or its vocabulary are not the encoder's"),
        (change_tokenizer, "its weights or its vocabulary are not the encoder's"),
        (change_graph, "its graph was changed"),
        (change_settings, "its copy.json holds no settings"),
        (lambda folder: (folder / "copy.json").unlink(), "its copy.json cannot be read"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "Error"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "Exception|Error"),
        (take_for_another_runtime_with_other_vectors, r"its vectors are 1.0e-03 from the encoder's"),
    ],
)
def test_a_copy_that_is_damaged_is_named_and_not_used(tiny_encoder, damage, reason):
    damage(copy_folder(tiny_encoder.encoder_hash))
    told = []
    assert find_copy(tiny_encoder.encoder_hash, told.append) is None
    [line] = told
    assert re.search(rf"is not used \(.*({reason}).*\); it is made anew", line)


def test_a_copy_that_is_damaged_is_made_anew(tiny_encoder, exported):
    change_weights(copy_folder(tiny_encoder.encoder_hash))
    told = []
    found = recorded_encoder(recorded(tiny_encoder), None, told.append)
    assert found.source == "folder" and isinstance(found.model, SentenceTransformer) and len(told) == 1
    assert recorded_encoder(recorded(tiny_encoder), None, unheard).source == "copy"


def test_another_encoders_copy_under_this_name_is_not_used(tiny_encoder, tmp_path, exported):
    other = load_encoder(str(save_encoder(tmp_path / "other", seed=1)))
    keep_copy(other)
    own, others = copy_folder(tiny_encoder.encoder_hash), copy_folder(other.encoder_hash)
    shutil.rmtree(own)
    others.rename(own)
    told = []
    assert find_copy(tiny_encoder.encoder_hash, told.append) is None
    assert "not the encoder's" in told[0]


def test_a_copy_is_compared_again_when_the_runtime_is_another(tiny_encoder, monkeypatch):
    compared = []
    monkeypatch.setattr(encoder_copies, "require_agreement", lambda copy, vectors: compared.append(vectors.shape))
    assert find_copy(tiny_encoder.encoder_hash, unheard) and compared == []
    take_for_another_runtime(copy_folder(tiny_encoder.encoder_hash))
    assert find_copy(tiny_encoder.encoder_hash, unheard) and compared == [(len(PROBES), 16)]


def test_an_encoder_that_is_named_is_loaded_and_checked_whatever_copy_there_is(tiny_encoder, tmp_path):
    other = save_encoder(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match="is not the one this atlas was built with"):
        recorded_encoder(recorded(tiny_encoder), str(other), unheard)
    moved = shutil.copytree(tiny_encoder.name, tmp_path / "moved")
    assert recorded_encoder(recorded(tiny_encoder), str(moved), unheard).source == "folder"
    assert recorded_encoder(recorded(tiny_encoder), tiny_encoder.name, unheard).source == "copy"


def static(folder):
    words = StaticEmbedding(tiny.make_tokenizer().backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[words]).save(str(folder / "encoder"))
    return load_encoder(str(folder / "encoder"))


def prompted(folder):
    encoder = load_encoder(str(save_encoder(folder)))
    encoder.model.prompts, encoder.model.default_prompt_name = {"query": "query: "}, "query"
    return encoder


def half(folder):
    return load_encoder(str(save_encoder(folder, dtype=torch.bfloat16)))


def unknown(folder):
    """Its arithmetic cannot be followed by the exporter."""
    loaded = load_encoder(str(save_encoder(folder)))

    class Counting(torch.nn.Module):
        def forward(self, features):
            if features["sentence_embedding"].sum().item() > 1e9:
                raise ValueError
            return features

    loaded.model.append(Counting())
    return loaded


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (static, "its tokenizer is not one of the package tokenizers"),
        (prompted, "it puts words of its own before a text"),
        (half, "its weights are of bfloat16"),
        (unknown, "in its export"),
    ],
)
def test_why_an_encoder_has_no_copy_is_remembered_and_said(make, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    encoder = make(tmp_path / "made")
    keep_copy(encoder)
    folder = copy_folder(encoder.encoder_hash)
    assert [file.name for file in folder.iterdir()] == ["copy.json"]
    assert find_copy(encoder.encoder_hash, unheard) is None
    line = describe_embedding(encoder.encoder_hash)
    assert line.startswith("sentence_transformers, for no copy for ONNX Runtime could be made (") and reason in line
    keep_copy(encoder, lambda *stage: pytest.fail("it was tried again"))


def test_a_copy_with_other_vectors_is_not_kept(made, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    loaded = made[0]

    class Turned:
        def __getattr__(self, name):
            return getattr(loaded.model, name)

        def __deepcopy__(self, memo):
            return copy.deepcopy(loaded.model, memo)

        def encode(self, texts, **options):
            return -loaded.model.encode(texts, **options)

    keep_copy(Encoder(loaded.name, loaded.source, loaded.encoder_hash, Turned()))
    assert re.search(
        r"could be made \(its vectors are \S+ from the encoder's\)", describe_embedding(loaded.encoder_hash)
    )


def test_nothing_half_made_is_left_by_who_is_stopped(made, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoder_export, "require_agreement", stopped)
        keep_copy(made[0])
    assert [one for one in (tmp_path / "cache" / "encoders").iterdir() if one.is_dir()] == []
    left = copy_folder(made[0].encoder_hash)
    (left.parent / f".{left.name}.killed").mkdir()
    keep_copy(made[0])
    assert [one for one in (tmp_path / "cache" / "encoders").iterdir() if one.is_dir()] == [left]


def test_a_cache_that_cannot_be_written_keeps_nobody_from_embedding(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "file"))
    found = recorded_encoder(recorded(made[0]), None, unheard)
    assert found.source == "folder"
    assert "until a command that embeds" in describe_embedding(made[0].encoder_hash)


def test_without_the_runtime_texts_are_embedded_as_before(tiny_encoder, monkeypatch):
    monkeypatch.setattr(encoder_copies, "RUNTIME", "no_such_runtime")
    assert recorded_encoder(recorded(tiny_encoder), None, unheard).source == "folder"
    assert "pip install 'neuron-atlas[onnx]'" in describe_embedding(tiny_encoder.encoder_hash)


@pytest.mark.parametrize("claimed", ["", "../../etc", "/" + "0" * 63, "0" * 63 + "/", "A" * 64])
def test_a_hash_from_a_strangers_atlas_leads_to_no_other_folder(claimed):
    assert copy_folder(claimed) is None
    assert find_copy(claimed, unheard) is None


COMMANDS = """
import sys
from atlas.cli.main import cli
for command in (["search", sys.argv[1], "a ship at sea"], ["score", sys.argv[1], "ships", sys.argv[2], "--min-support", "2"]):
    cli.main(command, standalone_mode=False)
print(sorted({"torch", "transformers", "sentence_transformers", "sae_lens"} & set(sys.modules)))
"""


def test_search_and_score_load_no_library_of_training(atlas_file, encoder, tmp_path):
    keep_copy(encoder)
    (tmp_path / "ships.txt").write_text("A ship at sea.\nThe harbour was full of boats.\n")
    command = [sys.executable, "-c", COMMANDS, str(atlas_file), str(tmp_path / "ships.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_search_finds_the_same_with_and_without_the_copy(atlas_file, encoder, monkeypatch):
    keep_copy(encoder)
    opened = atlas.open(atlas_file)
    by_copy = opened.search("a ship at sea", 5)
    assert opened._encoders[encoder.name].source == "copy"
    assert "texts are embedded by ONNX Runtime" in run("info", atlas_file)[1]
    monkeypatch.setattr(encoder_copies, "RUNTIME", "no_such_runtime")
    loaded = atlas.open(atlas_file)
    by_encoder = loaded.search("a ship at sea", 5)
    assert loaded._encoders[encoder.name].source != "copy"
    assert by_copy["neuron"].to_list() == by_encoder["neuron"].to_list()
    np.testing.assert_allclose(by_copy["z"], by_encoder["z"], atol=1e-3)
