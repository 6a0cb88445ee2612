"""What cannot be loaded or used is refused in one line; nothing of a folder is run; nothing that is not finite is stored."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

import atlas
import atlas.building.build
from atlas.errors import AtlasError, ModelError
from atlas.models.agreement import check_hooks
from atlas.models.codec import Codec
from atlas.models.configs import context_size
from atlas.models.encoders import load_encoder
from atlas.models.fingerprints import hash_encoder, hash_model
from atlas.models.loading import load_language_model, load_tokenizer, load_transformer, loading
from atlas.models.saes import describe_sae, fit_sae, load_sae
from atlas.models.tokens import special_ids, with_bos
from atlas.texts.prompts import collect_texts

HASHES = {  # recorded in atlases since the first version
    "gpt2_folder": "482ab92af6c38c1bd1f49affaca0632879e15ca9e4e7596a3eef4461bc8d5b78",
    "llama_folder": "2719a5a4680fb47bfe423a4962b9a13f0248541e7312a5c120e192508452d18c",
}


@pytest.fixture
def model_folder(gpt2_folder, tmp_path):
    """A copy of the tiny GPT-2 to damage."""
    return Path(shutil.copytree(gpt2_folder, tmp_path / "model"))


@pytest.fixture
def one_sae(tmp_path):
    """A folder of one SAE to damage."""
    return tiny.save_sae(tiny.make_sae("topk", 32, 24, "blocks.0.hook_resid_post", k=4), tmp_path / "saes" / "one")


def one_line(call, *args, match, **options):
    with pytest.raises(AtlasError, match=match) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("fixture", HASHES)
def test_the_hash_of_a_model_is_the_one_that_older_atlases_hold(request, fixture):
    folder = str(request.getfixturevalue(fixture))
    assert hash_model(load_transformer(folder)[0]) == HASHES[fixture]
    assert load_language_model(folder).model_hash == HASHES[fixture]


@pytest.mark.parametrize("load", [load_language_model, load_transformer])
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: folder / "config.json", "is a file: name the folder"),
        (lambda folder: folder / "model.safetensors", "is a file: name the folder"),
        (lambda folder: folder / "nothing", "there is no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "holds no config.json"),
        (lambda folder: (folder / "cfg.json").write_text("{}"), "is the folder of an SAE"),
        (lambda folder: (folder / "modules.json").write_text("[]"), "is the folder of a sentence encoder"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load language model"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"), "cannot load language model"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "cannot load language model"),
        (lambda folder: edit_json(folder / "config.json", model_type="nobody"), "cannot load language model"),
        (lambda folder: edit_json(folder / "config.json", model_type="bert"), "language model"),
        (lambda folder: edit_json(folder / "config.json", model_type="t5"), "causal language model"),
        (lambda folder: edit_json(folder / "config.json", n_embd="32"), "cannot load language model"),
        (lambda folder: edit_json(folder / "config.json", n_embd=10**12), "cannot load language model"),
        (lambda folder: edit_json(folder / "config.json", n_head=0), "cannot load language model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"), "cannot load language model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "cannot load language model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot load language model"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0"'), "cannot load tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot load tokenizer"),
        (lambda folder: edit_json(folder / "tokenizer.json", model=None), "cannot load tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load tokenizer"),
    ],
)
def test_a_damaged_model_folder_is_refused_in_one_line(model_folder, load, break_it, message):
    named = break_it(model_folder)
    one_line(load, str(named if isinstance(named, Path) else model_folder), match=message)


@pytest.mark.parametrize("load", [load_language_model, load_transformer])
def test_weights_that_have_to_be_unpickled_are_not_read(model_folder, load):
    save = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    torch.save(save, model_folder / "pytorch_model.bin")
    one_line(load, str(model_folder), match="pytorch_model.bin, a format that can run code")


@pytest.mark.parametrize("load", [load_language_model, load_transformer, load_tokenizer])
def test_code_in_a_model_folder_is_not_run(model_folder, load, tmp_path):
    proof = tmp_path / "it-ran"
    (model_folder / "mine.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Mine: pass\n")
    edit_json(
        model_folder / "config.json",
        model_type="mine",
        auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"},
    )
    edit_json(model_folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]})
    try:
        load(str(model_folder))
    except ModelError as error:
        assert "\n" not in str(error)
    assert not proof.exists()


def test_a_stopped_load_and_a_bug_of_this_package_keep_their_traceback():
    for error in (KeyboardInterrupt, TypeError):
        with pytest.raises(error), loading("SAE", "mine"):
            raise_here(error)


def raise_here(error):
    """As if from inside atlas/models.py."""
    import atlas.models.loading

    exec(compile("raise error", atlas.models.loading.__file__, "exec"), {"error": error})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 25}, "k is 25 in its cfg.json, and it has 24 neurons"),
        ({"k": 0}, "k is 0"),
        ({"k": "4"}, "SAE"),
        ({"d_sae": 25}, "SAE"),
        ({"d_in": 31}, "SAE"),
        ({"d_in": "32"}, "SAE"),
        ({"d_sae": -1}, "SAE"),
        ({"d_sae": 10**15}, "SAE"),
        ({"architecture": "nobody"}, "SAE"),
        ({"architecture": 3}, "SAE"),
        ({"architecture": "jumprelu"}, "SAE"),
        ({"normalize_activations": "nobody"}, "SAE"),
        ({"normalize_activations": "expected_average_only_in"}, "never folded into its weights"),
        ({"normalize_activations": "covariance_whitening"}, "never folded into its weights"),
        ({"reshape_activations": "nobody"}, "SAE"),
        ({"metadata": {"hook_name": None}}, "names no hook"),
        ({"metadata": {"hook_name": 7}}, "SAE"),
        ({"metadata": 7}, "SAE"),
        ({"metadata": {"hook_name": "blocks.0.hook_resid_post", "model_from_pretrained_kwargs": [1]}}, "SAE"),
    ],
)
def test_an_sae_whose_settings_contradict_each_other_is_refused_at_load(one_sae, settings, message):
    edit_json(one_sae / "cfg.json", **settings)
    one_line(load_sae, str(one_sae.parent), "one", match=message)


@pytest.mark.parametrize("dtype", ["float33", 7])
def test_the_number_format_in_an_saes_settings_does_not_matter_or_is_refused(one_sae, dtype):
    edit_json(one_sae / "cfg.json", dtype=dtype)
    try:
        assert load_sae(str(one_sae.parent), "one").codec.sae.W_dec.dtype == torch.float32
    except ModelError as error:
        assert "\n" not in str(error)


def test_an_sae_with_damaged_weights_is_refused(one_sae):
    weights = load_file(one_sae / "sae_weights.safetensors")
    save_file({**weights, "W_dec": weights["W_dec"].clone().fill_(float("nan"))}, one_sae / "sae_weights.safetensors")
    one_line(load_sae, str(one_sae.parent), "one", match="W_dec holds values that are not finite")
    (one_sae / "sae_weights.safetensors").write_bytes(b"\x00" * 20)
    one_line(load_sae, str(one_sae.parent), "one", match="cannot load SAE")
    one_line(load_sae, str(one_sae / "cfg.json"), "one", match="is a file: name the folder")


def test_damaged_bytes_anywhere_in_a_folder_give_one_line_or_load(gpt2_folder, sae_folder, tmp_path):
    chance = random.Random(7)
    for number in range(40):
        source, load = ((gpt2_folder, load_transformer), (sae_folder, lambda f: load_sae(f, "residual")))[number % 2]
        folder = Path(shutil.copytree(source, tmp_path / str(number)))
        names = [f for f in folder.rglob("*") if f.is_file() and (number % 2 == 0 or f.parent.name == "residual")]
        victim = chance.choice(sorted(names))
        raw = bytearray(victim.read_bytes())
        kind = chance.randrange(3)
        if kind == 0:
            raw = raw[: chance.randrange(len(raw))]
        else:
            for _ in range(1 if kind == 1 else 20):
                raw[chance.randrange(min(len(raw), 4000))] = chance.randrange(256)
        victim.write_bytes(bytes(raw))
        try:
            load(str(folder))
        except AtlasError as error:
            assert "\n" not in str(error)
        shutil.rmtree(folder)


def test_centring_is_for_what_is_written_to_the_stream_only():
    options = {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}
    for place, centred in (
        ("attn.hook_z", False),
        ("mlp.hook_post", False),
        ("hook_resid_pre", True),
        ("hook_mlp_out", True),
    ):
        sae = tiny.make_sae("standard", 32, 40, f"blocks.1.{place}", **options)
        x = torch.randn(5, 32)
        found = describe_sae(sae, "r", "i")
        assert found.center_writing_weights == centred
        reads = x - x.mean(-1, keepdim=True) if centred else x
        assert (found.codec.encode(x).acts - sae.encode(reads)).abs().max() == 0


def test_centring_is_for_models_whose_norms_are_layer_norms_only(language_model, llama_folder):
    options = {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}
    sae = describe_sae(tiny.make_sae("standard", 32, 40, "blocks.1.hook_resid_pre", **options), "r", "i")
    assert fit_sae(sae, language_model).codec.center
    fitted = fit_sae(sae, load_language_model(str(llama_folder)))
    assert not fitted.codec.center and not fitted.center_writing_weights


def test_activations_that_overflow_stop_a_build_before_there_is_a_file(model_folder, sae_folder, tmp_path):
    hot = AutoModelForCausalLM.from_pretrained(model_folder)
    hot.transformer.h[0].mlp.c_proj.weight.data *= 3e4
    hot.save_pretrained(model_folder)
    one_line(
        atlas.building.build.build_atlas, tmp_path / "a.atlas", collect_texts(tiny.PROMPTS[:4]), model=str(model_folder),
        saes=[(str(sae_folder), "residual")], dtype="float16",
        match="activations at blocks.0.hook_resid_post are not finite in float16: use bfloat16 or float32",
    )  # fmt: skip
    assert not (tmp_path / "a.atlas").exists()


def test_a_code_that_overflows_is_not_stored(language_model):
    from atlas.models.activations import entries_at

    codec = Codec(tiny.make_kind("standard", hook_name="blocks.0.hook_resid_post"))
    x = torch.full((1, 3, 32), 1e38)
    codec.sae.W_enc.data *= 1e3
    one_line(entries_at, codec, x, torch.ones(1, 3, dtype=torch.bool), match="are not finite in float32")


def test_special_tokens_without_a_name_are_special_everywhere():
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("word", special=False)], special_tokens=False
    )
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)], special_tokens=True)
    start, end, word = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "word"])
    assert {tokenizer.bos_token_id, start, end} <= special_ids(tokenizer)
    assert word not in special_ids(tokenizer)


def test_a_text_that_begins_with_bos_gets_no_second_one(language_model):
    tokenizer = language_model.tokenizer
    bos = tokenizer.bos_token_id
    assert with_bos(tokenizer, [5, 6], prepend_bos=True) == [bos, 5, 6]
    assert with_bos(tokenizer, [bos, 5, 6], prepend_bos=True) == [bos, 5, 6]
    assert with_bos(tokenizer, [5, 6], prepend_bos=False) == [5, 6]


def test_a_build_takes_a_text_that_begins_with_bos_as_the_text_alone(tmp_path, gpt2_folder, sae_folder, loaded_once):
    end = tiny.END
    for name, texts in (("plain", tiny.PROMPTS[:8]), ("opened", [end + text for text in tiny.PROMPTS[:8]])):
        atlas.building.build.build_atlas(
            tmp_path / name, collect_texts(texts), model=str(gpt2_folder), saes=[(str(sae_folder), "residual")]
        )
    columns = "neuron, prompt_id, round(act_sum, 3) a from activations order by all"
    plain, opened = (atlas.open(tmp_path / name).sql(f"select {columns}") for name in ("plain", "opened"))
    assert plain.equals(opened)
    tokens = [atlas.open(tmp_path / n).sql("select token from examples order by all") for n in ("plain", "opened")]
    assert tokens[0].equals(tokens[1])


def test_a_tokenizer_without_special_tokens_serves_where_no_bos_is_wanted(model_folder):
    settings = json.loads((model_folder / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        settings.pop(name, None)
    (model_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (model_folder / "special_tokens_map.json").unlink(missing_ok=True)
    model = load_language_model(str(model_folder))
    assert model.tokenizer.bos_token_id is None
    assert model.tokenizer_hash == load_language_model(str(model_folder)).tokenizer_hash
    assert len(model.tokenizer) == len(AutoTokenizer.from_pretrained(model_folder))
    sae = describe_sae(tiny.make_sae("standard", 32, 40, "blocks.1.hook_resid_pre"), "r", "i")
    assert check_hooks(model, [sae]) == (model, [])
    one_line(with_bos, model.tokenizer, [1], prepend_bos=True, match="neither a BOS nor an EOS token")


def test_the_context_of_a_model_is_known_whatever_its_settings_call_it():
    from transformers import BloomConfig, GPT2Config, LlamaConfig, MptConfig

    class Model:
        def __init__(self, config):
            self.config = config

    assert context_size(Model(LlamaConfig(max_position_embeddings=77))) == 77
    assert context_size(Model(GPT2Config(n_positions=78))) == 78
    assert context_size(Model(MptConfig(max_seq_len=79))) == 79
    assert context_size(Model(BloomConfig())) == 2048


@pytest.fixture(scope="module")
def static_folder(tmp_path_factory):
    """A static encoder: one vector a token, and no transformer."""
    torch.manual_seed(0)
    words = StaticEmbedding(tiny.make_tokenizer().backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[words]).save(str(folder := tmp_path_factory.mktemp("static")))
    return folder


def test_a_static_encoder_is_hashed_and_used(static_folder):
    encoder, again = load_encoder(str(static_folder)), load_encoder(str(static_folder))
    assert encoder.encoder_hash == again.encoder_hash
    assert np.allclose(np.linalg.norm(encoder.embed(["a ship", "a nurse"]), axis=1), 1, atol=1e-5)
    again.model[0].embedding.weight.data += 1
    assert hash_encoder(again.model) != encoder.encoder_hash


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda f: (f / "modules.json").write_text('[{"idx":0,"name":"0","path":"","type":"os.system"}]'),
            "names os.system",
        ),
        (
            lambda f: (f / "modules.json").write_text('[{"idx":0,"name":"0","path":"","type":"mine.Mine"}]'),
            "names mine.Mine",
        ),
        (lambda f: (f / "modules.json").write_text("{"), "cannot load sentence encoder"),
        (lambda f: (f / "modules.json").write_text('[{"idx":0}]'), "cannot load sentence encoder"),
        (lambda f: (f / "modules.json").write_text("7"), "cannot load sentence encoder"),
        (lambda f: shutil.rmtree(f) or f.mkdir(), "holds neither modules.json nor config.json"),
        (lambda f: (f / "cfg.json").write_text("{}"), "is the folder of an SAE"),
        (lambda f: f / "modules.json", "is a file: name the folder"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin") and None,
            "pytorch_model.bin, a format that can run code",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 9), "cannot load sentence encoder"),
    ],
)
def test_a_damaged_or_foreign_encoder_folder_is_refused_in_one_line(static_folder, tmp_path, break_it, message):
    folder = Path(shutil.copytree(static_folder, tmp_path / "static"))
    named = break_it(folder)
    one_line(load_encoder, str(named if isinstance(named, Path) and named.is_file() else folder), match=message)
