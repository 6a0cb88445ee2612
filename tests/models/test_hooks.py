"""A hook name means the same activation in a TransformerBridge and in the Hugging Face model behind it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from atlas.errors import ModelError
from atlas.models.fingerprints import hash_model, hash_tokenizer
from atlas.models.hooks import catch_activations, find_blocks, find_site
from atlas.models.loading import load_language_model, load_transformer

IDS = torch.tensor([[0, 300, 21, 45, 310, 66], [0, 7, 399, 280, 5, 5]])
PLACES = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")
HOOKS = [f"blocks.{layer}.{place}" for layer in (0, 1) for place in PLACES]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request):
    """The same weights twice: as a TransformerBridge and as a plain Hugging Face model."""
    folder = str(request.getfixturevalue(f"{request.param}_folder"))
    plain, tokenizer = load_transformer(folder)
    return SimpleNamespace(bridge=load_language_model(folder).bridge, plain=plain, tokenizer=tokenizer)


@torch.no_grad()
def run(model, hook_name=None, function=lambda x: x):
    """Logits, and what the site saw."""
    seen = []
    handle = find_site(model, hook_name).edit(lambda x: (seen.append(x), function(x))[1]) if hook_name else None
    try:
        output = model(IDS)
    finally:
        if handle:
            handle.remove()
    return getattr(output, "logits", output), seen


@pytest.mark.parametrize("hook_name", HOOKS)
def test_both_models_show_the_same_activation(pair, hook_name):
    (_, [bridged]), (_, [plain]) = run(pair.bridge, hook_name), run(pair.plain, hook_name)
    assert bridged.shape == ((2, 6, 4, 8) if hook_name.endswith("hook_z") else (2, 6, 32))
    torch.testing.assert_close(bridged, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook_name", HOOKS)
def test_the_activation_is_the_one_transformer_lens_caches(pair, hook_name):
    _, cache = pair.bridge.run_with_cache(IDS, names_filter=hook_name)
    torch.testing.assert_close(run(pair.plain, hook_name)[1][0], cache[hook_name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook_name", HOOKS)
def test_an_edit_changes_the_logits_of_both_models_alike(pair, hook_name):
    shape = run(pair.plain, hook_name)[1][0].shape[2:]
    step = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    step[1:2] *= 5  # heads or dimensions are not interchangeable
    untouched = run(pair.plain)[0]
    plain, bridged = (run(model, hook_name, lambda x: x + step)[0] for model in (pair.plain, pair.bridge))
    assert (plain - untouched).abs().max() > 0.1
    torch.testing.assert_close(bridged, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("hook_name", HOOKS)
def test_an_edit_of_one_token_leaves_the_tokens_before_it_alone(pair, hook_name):
    def edit(x):
        x = x.clone()
        x[:, 3] += torch.linspace(-1, 1, x[0, 0].numel()).reshape(x.shape[2:])
        return x

    change = (run(pair.plain, hook_name, edit)[0] - run(pair.plain)[0]).abs().amax(dim=-1)
    assert change[:, :3].max() < 1e-5 < 1e-2 < change[:, 3].min()


@pytest.mark.parametrize("name", ["bridge", "plain"])
def test_a_removed_handle_leaves_no_trace(pair, name):
    model = getattr(pair, name)
    before = run(model)[0]
    counts = hook_counts(model)
    for hook_name in HOOKS:
        handle = find_site(model, hook_name).edit(lambda x: x + 1)
        assert hook_counts(model) != counts
        handle.remove()
    assert hook_counts(model) == counts
    assert torch.equal(run(model)[0], before)


def hook_counts(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_several_edits_at_one_place_and_at_several_places_all_work(pair):
    names = ["blocks.0.hook_resid_post", "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
    seen = []
    handles = [
        find_site(pair.plain, name).edit(lambda x, i=i: (seen.append(i), x + i)[1]) for i, name in enumerate(names)
    ]
    run(pair.plain)
    for handle in handles:
        handle.remove()
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("hook_name", "message"),
    [
        ("blocks.0.hook_nothing", "cannot be found in a plain Hugging Face model: pass a TransformerBridge"),
        ("blocks.0.attn.hook_q", "cannot be found in a plain Hugging Face model: pass a TransformerBridge"),
        ("blocks.2.hook_resid_post", "the model has 2 layers, is it the model the SAE was trained on"),
    ],
)
def test_a_name_a_plain_model_does_not_have_is_refused(pair, hook_name, message):
    with pytest.raises(ModelError, match=message):
        find_site(pair.plain, hook_name)


@pytest.mark.parametrize("hook_name", ["blocks.0.hook_nothing", "blocks.2.hook_resid_post", ""])
def test_a_name_a_bridge_does_not_have_is_refused(pair, hook_name):
    with pytest.raises(ModelError, match="is it the model the SAE was trained on"):
        find_site(pair.bridge, hook_name)


def test_a_model_without_a_list_of_layers_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.config = SimpleNamespace(num_hidden_layers=2)
    with pytest.raises(ModelError, match="no list of 2 layers in Sequential"):
        find_blocks(model)


def test_a_bridge_and_the_model_behind_it_have_the_same_hash_and_other_weights_another(pair):
    assert hash_model(pair.bridge) == hash_model(pair.plain)
    weight = next(pair.plain.parameters())
    try:
        weight.data[0, 0] += 1
        assert hash_model(pair.plain) != hash_model(pair.bridge)
    finally:
        weight.data[0, 0] -= 1


def test_the_tokenizer_of_a_bridge_has_the_hash_of_the_plain_one(pair):
    assert hash_tokenizer(pair.bridge.tokenizer) == hash_tokenizer(pair.tokenizer)


@pytest.mark.parametrize("kind", ["bridge", "plain"])
@pytest.mark.parametrize("names", [["blocks.0.hook_mlp_out"], ["blocks.0.hook_resid_post", "blocks.0.attn.hook_z"]])
def test_a_pass_ends_at_the_last_hook_that_is_wanted_and_shows_what_a_whole_one_shows(pair, kind, names):
    model, mask = getattr(pair, kind), torch.ones_like(IDS)
    later: list[None] = []
    handle = find_site(model, "blocks.1.hook_resid_post").edit(lambda x: (later.append(None), x)[1])
    try:
        caught = catch_activations(model, IDS, mask.bool(), names)
        assert not later
        whole = catch_activations(model, IDS, mask.bool(), [*names, "blocks.1.hook_resid_post"])
        assert later
    finally:
        handle.remove()
    for name in names:
        torch.testing.assert_close(caught[name], whole[name], rtol=0, atol=0)


def test_a_pass_of_a_model_that_moves_its_weights_about_is_ended_by_itself(pair):
    later: list[None] = []
    handle = find_site(pair.plain, "blocks.1.hook_resid_post").edit(lambda x: (later.append(None), x)[1])
    pair.plain._hf_hook = object()
    try:
        catch_activations(pair.plain, IDS, torch.ones_like(IDS).bool(), ["blocks.0.hook_resid_post"])
    finally:
        del pair.plain._hf_hook
        handle.remove()
    assert later
