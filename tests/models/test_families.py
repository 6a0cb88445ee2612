"""A hook means the same place in a bridge and in the plain model, in every family, or it is refused in one line."""

from __future__ import annotations

import pytest
import tiny
import torch
from families import FAMILIES, PLACES, examine, save_family

import atlas
import atlas.building.build
import atlas.models.hooks
import atlas.models.loading
from atlas.errors import ModelError
from atlas.models.agreement import difference
from atlas.models.loading import load_language_model, load_transformer
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.steer import steer_prompts
from atlas.texts.prompts import collect_texts

TESTED = [name for name in FAMILIES if name not in ("CodeGen", "GPT-BigCode", "Ministral 3", "OLMoE", "Llava", "Mamba")]
REFUSED = {  # TransformerLens lists these hooks, and they never run or give something else
    "GPT": {"hook_resid_post": "never ran"},
    "Granite": {"hook_attn_out": "never ran", "hook_mlp_out": "never ran"},
    "Granite MoE": {"hook_attn_out": "never ran", "hook_mlp_out": "never ran"},
    "Cohere": dict.fromkeys(("hook_attn_out", "attn.hook_z"), "differ at blocks.1"),
    "HunYuan": dict.fromkeys(("hook_attn_out", "hook_mlp_out", "attn.hook_z"), "differ at blocks.1"),
}
OFF = {"Cohere", "Cohere 2", "HunYuan"}  # by less than is refused, and said: the plain model's activations are taken


@pytest.mark.parametrize("name", TESTED)
def test_codes_are_those_of_the_plain_model_and_steering_it_equals_steering_the_bridge(name, tmp_path):
    found = examine(name, tmp_path)
    refused = REFUSED.get(name, {})
    assert {place: found.refused.get(place) for place in PLACES if place in found.refused}.keys() == refused.keys()
    for place, words in refused.items():
        assert words in found.refused[place]
    assert found.same_hash
    assert name in ("GPT", "Granite", "Granite MoE") or found.identity is None or found.identity < 1e-5
    assert bool([note for note in found.notes if "is off by" in note]) == (name in OFF)
    unfound = {note.split()[0].split(".", 2)[2] for note in found.notes if "is not found in the plain model" in note}
    assert found.steering.keys() == set(PLACES) - refused.keys() - unfound
    for place, off in found.codes.items():
        assert off < 1e-5 or place in unfound, place
    for place, off in found.steering.items():
        assert off < (1e-3 if name in OFF else 1e-4), place
        assert found.moved[place] > 1e-3, place


@pytest.mark.parametrize("name", ["BLOOM", "OPT", "Phi-3", "GLM-4", "MPT"])
@pytest.mark.parametrize("place", ["hook_mlp_out", "hook_attn_out"])
def test_an_atlas_of_the_family_can_be_built_scored_and_steered_alike_both_ways(
    name, place, tmp_path, encoder, monkeypatch
):
    folder = save_family(name, tmp_path / "model")
    hook = f"blocks.1.{place}"
    tiny.save_sae(tiny.make_sae("topk", 32, 40, hook, k=4), tmp_path / "saes/one")
    monkeypatch.setattr(atlas.building.build, "load_encoder", lambda *a, **k: encoder)
    monkeypatch.setattr(atlas.models.encoders, "load_encoder", lambda *a, **k: encoder)
    path = tmp_path / "a.atlas"
    atlas.building.build.build_atlas(
        path, collect_texts(list(tiny.PROMPTS)), model=str(folder), saes=[(str(tmp_path / "saes"), "one")]
    )
    made = atlas.open(path)
    made.score("sea", list(tiny.SEA), min_support=5)
    plain, tokenizer = load_transformer(str(folder))
    bridge = load_language_model(str(folder)).bridge
    ids = torch.tensor([[0, *tokenizer("The ship sailed", add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        with made.steer(plain, "sea", select="score", tokenizer=tokenizer, method="add"):
            steered = plain(ids).logits
        with made.steer(bridge, "sea", select="score", tokenizer=tokenizer, method="add"):
            assert difference(steered, bridge(ids)) < 1e-4
        assert difference(steered, plain(ids).logits) > 1e-3
    settings = Sampling(max_new_tokens=3, temperature=0)
    prepared = prepare_steering(
        RecordedModels(made.store), "sea", {"add": Options()}, settings=SteeringSettings(select="score")
    )
    [generation] = steer_prompts(prepared, ["The ship"], sampling=settings, save=False)
    assert generation.contamination is not None


def test_a_plain_model_whose_place_is_another_one_is_refused_at_build_and_when_it_is_steered(
    tmp_path, encoder, monkeypatch
):
    folder = save_family("GLM-4", tmp_path / "model")
    tiny.save_sae(tiny.make_sae("topk", 32, 40, "blocks.1.hook_mlp_out", k=4), tmp_path / "saes/one")
    monkeypatch.setattr(atlas.building.build, "load_encoder", lambda *a, **k: encoder)
    options = {"model": str(folder), "saes": [(str(tmp_path / "saes"), "one")]}
    atlas.building.build.build_atlas(tmp_path / "a.atlas", collect_texts(list(tiny.PROMPTS)), **options)
    monkeypatch.setattr(atlas.models.hooks, "NORM_AFTER_MLP", ())
    with pytest.raises(ModelError, match="differ at blocks.1.hook_mlp_out by .* of the largest value"):
        atlas.building.build.build_atlas(tmp_path / "b.atlas", collect_texts(list(tiny.PROMPTS)), **options)
    assert not (tmp_path / "b.atlas").exists()
    plain, tokenizer = load_transformer(str(folder))
    with pytest.raises(ModelError, match="blocks.1.hook_mlp_out of this model gives other activations than the atlas"):
        atlas.open(tmp_path / "a.atlas").steer(plain, None, tokenizer=tokenizer)
    bridge = load_language_model(str(folder)).bridge
    with atlas.open(tmp_path / "a.atlas").steer(bridge, None, tokenizer=tokenizer), torch.no_grad():
        bridge(torch.tensor([[0, 5, 6]]))


def test_the_check_before_steering_is_seen_by_nothing_that_watches_the_model(built_atlas, transformer, language_model):
    tokenizer, made = language_model.tokenizer, atlas.open(built_atlas)
    seen = []
    handle = transformer.transformer.h[0].register_forward_hook(lambda *call: seen.append(1))
    try:
        with made.steer(transformer, None, tokenizer=tokenizer, method="add", strength=50.0), torch.no_grad():
            made.steer(
                transformer, None, sae_id="heads", tokenizer=tokenizer
            )  # would be refused if it were steered now
            assert not seen
            transformer(torch.tensor([[0, 5, 6]]))
    finally:
        handle.remove()
