"""The contract between atlas and SAELens, over every supported architecture, normalisation, centring and head reshaping."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import tiny
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY

from atlas.errors import ModelError
from atlas.models.codec import Codec
from atlas.models.saes import REFUSED, SUPPORTED, describe_sae, load_sae

D_SAE = 24
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
CASES = [
    pytest.param(kind, norm, center, heads, id=f"{kind}-{norm}{'-centred' * center}{'-heads' * heads}")
    for kind, norm, center, heads in itertools.product(
        tiny.SUPPORTED_KINDS, NORMALISATIONS, (False, True), (False, True)
    )
]


class Case:
    """A codec, SAELens's own SAE with the same weights, and activations for both."""

    def __init__(self, kind, norm="none", center=False, heads=False):
        settings = {"normalize_activations": norm}
        if heads:
            settings |= {"reshape_activations": "hook_z", "hook_name": "blocks.0.attn.hook_z"}
        self.kind = kind
        self.codec = Codec(tiny.make_kind(kind, **settings), center=center)
        self.own = tiny.make_kind(kind, **settings)
        site = (tiny.HEADS, tiny.D_MODEL // tiny.HEADS) if heads else (tiny.D_MODEL,)
        self.x = torch.randn(2, 3, *site, generator=torch.Generator().manual_seed(7)) + 0.5
        dims = (-2, -1) if heads else (-1,)
        self.mean = self.x.mean(dim=dims, keepdim=True) if center else torch.zeros(())

    def own_codes(self):
        return self.own.encode(self.x - self.mean)


@pytest.fixture(params=[p.values for p in CASES], ids=[p.id for p in CASES])
def case(request):
    return Case(*request.param)


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_no_neuron_fires_on_an_activation_longer_than_the_sae_was_trained_on(kind):
    case = Case(kind)
    case.x[0, 1] *= 100
    lengths = case.x.norm(dim=-1)
    case.codec.largest_input_norm = 2 * lengths.median().item()
    read = lengths <= case.codec.largest_input_norm
    assert read.sum() == read.numel() - 1
    code = case.codec.encode(case.x)
    close(code.acts, case.own_codes() * read.unsqueeze(-1))
    assert not code.pre[0, 1].any()
    narrowed, weighed = case.codec.encode_twice(case.x, torch.ones(D_SAE))
    assert not narrowed.acts[0, 1].any()
    assert not weighed[0, 1].any()


@pytest.mark.parametrize("value", [0, -1.0, "12", True, float("inf")])
def test_a_largest_input_norm_that_is_no_length_is_refused(value):
    sae = tiny.make_kind("topk")
    sae.cfg.metadata.largest_input_norm = value
    with pytest.raises(ModelError, match="largest_input_norm is .* it has to be a number above 0"):
        describe_sae(sae, "here", "topk")


def test_the_largest_input_norm_is_part_of_what_an_sae_is_known_by():
    one, other = tiny.make_kind("topk"), tiny.make_kind("topk")
    other.cfg.metadata.largest_input_norm = 30.0
    assert describe_sae(one, "here", "topk").sae_hash != describe_sae(other, "here", "topk").sae_hash


def test_codes_are_those_of_saelens(case):
    code = case.codec.encode(case.x)
    assert code.acts.shape == (2, 3, D_SAE)
    close(code.acts, case.own_codes())
    assert 0 < (code.acts != 0).sum() < code.acts.numel()


def test_a_decoded_code_is_what_saelens_gives_plus_the_mean(case):
    code = case.codec.encode(case.x)
    close(case.codec.decode(code.acts, code, case.x), case.own(case.x - case.mean) + case.mean)


def test_a_code_can_be_decoded_again_and_after_other_codes(case):
    code = case.codec.encode(case.x)
    first = case.codec.decode(code.acts, code, case.x)
    case.codec.encode(3 * case.x.flip(0) - 1)
    assert torch.equal(case.codec.decode(code.acts, code, case.x), first)


def test_raising_a_neuron_moves_the_output_by_scale_times_its_decoder_row(case):
    code = case.codec.encode(case.x)
    before = case.codec.decode(code.acts, code, case.x)
    for neuron, delta in ((3, 0.7), (11, -2.0)):
        acts = code.acts.clone()
        acts[..., neuron] += delta
        moved = case.codec.flatten(case.codec.decode(acts, code, case.x) - before)
        close(moved, (delta * code.scale * case.codec.decoder_rows[neuron]).expand_as(moved))


def test_the_scale_is_known_without_encoding(case):
    found, expected = case.codec.input_scale(case.x), case.codec.encode(case.x).scale
    close(torch.as_tensor(found), torch.as_tensor(expected))


def test_shift_gives_exactly_x_when_no_neuron_changed(case):
    code = case.codec.encode(case.x)
    assert torch.equal(case.codec.shift(case.x, code, code.acts.clone()), case.x)


def test_shift_adds_the_difference_of_the_two_decoded_codes(case):
    code = case.codec.encode(case.x)
    acts = code.acts.clone()
    acts[0, 1, 5] += 1.5
    acts[1, :, 2] = 0
    difference = case.codec.decode(acts, code, case.x) - case.codec.decode(code.acts, code, case.x)
    assert difference.abs().max() > 0.1
    close(case.codec.shift(case.x, code, acts), case.x + difference)


def test_weights_of_one_give_the_same_code(case):
    assert torch.equal(case.codec.encode(case.x, torch.ones(D_SAE)).acts, case.codec.encode(case.x).acts)


def test_weights_act_on_the_pre_activation_before_the_saes_own_selection(case):
    weights = torch.linspace(0, 1, D_SAE)
    code = case.codec.encode(case.x)
    close(case.codec.encode(case.x, weights).acts, select(case, code.pre * weights))
    close(code.acts, select(case, code.pre))


def select(case, pre):
    """σ written out from the definition of each architecture."""
    if case.kind.startswith("topk"):
        kth = pre.topk(4, dim=-1).values[..., -1:]
        return torch.where(pre >= kth, pre, 0).relu()
    if case.kind.startswith("abstopk"):
        kth = pre.abs().topk(4, dim=-1).values[..., -1:]
        return torch.where(pre.abs() >= kth, pre, 0)
    if case.kind == "jumprelu":
        return torch.where(pre > case.own.threshold, pre, 0)
    if case.kind == "gated":
        gate = case.own.process_sae_in(case.x - case.mean) @ case.own.W_enc + case.own.b_gate > 0
        return gate * pre.relu()
    return pre.relu()


def test_the_input_is_not_changed_and_shape_and_dtype_are_kept(case):
    x = case.x.to(torch.bfloat16)
    before = x.clone()
    code = case.codec.encode(x)
    outputs = [case.codec.decode(code.acts, code, x), case.codec.shift(x, code, code.acts + 1)]
    assert torch.equal(x, before)
    assert [(out.shape, out.dtype) for out in outputs] == [(x.shape, torch.bfloat16)] * 2
    assert code.acts.dtype == torch.float32


def test_a_batch_of_any_shape_gives_the_same_codes(case):
    code = case.codec.encode(case.x).acts
    close(case.codec.encode(case.x.flatten(0, 1)).acts, code.flatten(0, 1))
    close(case.codec.encode(case.x[0, 0]).acts, code[0, 0])


def test_shift_works_on_one_token_without_a_batch():
    case = Case("standard")
    x = case.x[0, 0]
    code = case.codec.encode(x)
    assert torch.equal(case.codec.shift(x, code, code.acts), x)
    close(case.codec.shift(x, code, code.acts + 1), x + case.codec.decoder_rows.sum(dim=0))


def test_every_architecture_saelens_registers_is_supported_or_refused():
    assert sorted([*SUPPORTED, *REFUSED]) == sorted(SAE_CLASS_REGISTRY)
    assert {kind.split("-")[0] for kind in tiny.SUPPORTED_KINDS} == set(SUPPORTED)


@pytest.mark.parametrize("architecture", sorted(set(SAE_CLASS_REGISTRY) - set(SUPPORTED)))
def test_an_architecture_that_cannot_be_used_is_refused_with_its_reason(tmp_path, architecture):
    sae = tiny.make_sae(architecture, tiny.D_MODEL, D_SAE, "blocks.0.hook_mlp_out")
    with pytest.raises(ModelError, match=f"architecture {architecture} is not supported, {REFUSED[architecture]}"):
        describe_sae(sae, str(tmp_path), "mine")


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_a_saved_sae_is_loaded_with_the_same_codes(tmp_path, kind):
    case = Case(kind, "layer_norm")
    tiny.save_sae(tiny.make_kind(kind, normalize_activations="layer_norm"), tmp_path / "mine")
    loaded = load_sae(str(tmp_path), "mine")
    assert torch.equal(loaded.codec.encode(case.x).acts, case.codec.encode(case.x).acts)
    assert (loaded.architecture, loaded.hook_name) == (kind.split("-")[0], "blocks.0.hook_resid_post")
    assert loaded.prepend_bos


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"hook_name": None}, "names no hook"), ({"hook_head_index": 3}, "reads one head of blocks.0.hook_resid_post")],
)
def test_an_sae_that_does_not_say_where_it_reads_is_refused(metadata, message):
    sae = tiny.make_kind("standard")
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    with pytest.raises(ModelError, match=message):
        describe_sae(sae, "release", "mine")


FEW = pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)


@FEW
@pytest.mark.parametrize("norm", NORMALISATIONS)
def test_a_narrowed_code_decodes_and_shifts_as_the_whole_one(kind, norm):
    codec = Codec(tiny.make_kind(kind, d_sae=64, normalize_activations=norm), center=True)
    x = torch.randn(2, 1, tiny.D_MODEL, generator=torch.Generator().manual_seed(1))
    code = codec.encode(x)
    code = replace(code, acts=torch.zeros_like(code.acts).index_fill(-1, torch.tensor([3, 40]), 2.0))
    edited = code.acts.clone()
    edited[1, 0, 7] = -0.5
    narrowed, acts = codec.narrow(edited, code)
    assert narrowed.neurons.tolist() == [3, 7, 40]
    assert torch.equal(narrowed.pick(code.pre), narrowed.pre)
    close(codec.decode(acts, narrowed, x), codec.decode(edited, code, x))
    close(codec.shift(x, narrowed, acts), codec.shift(x, code, edited))
    assert torch.equal(codec.shift(x, narrowed, narrowed.acts), x)


def test_a_code_of_many_neurons_is_left_whole():
    codec = Codec(tiny.make_kind("standard"))
    code = codec.encode(torch.randn(9, 2, tiny.D_MODEL, generator=torch.Generator().manual_seed(1)))
    same, acts = codec.narrow(code.acts, code)
    assert same is code and torch.equal(acts, code.acts)


@FEW
@pytest.mark.parametrize("norm", NORMALISATIONS)
@pytest.mark.parametrize("tokens", [1, 100])
def test_encoding_twice_at_once_gives_both_codes(kind, norm, tokens):
    codec = Codec(tiny.make_kind(kind, normalize_activations=norm), center=True)
    x = torch.randn(2, tokens, tiny.D_MODEL, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(codec.d_sae, generator=torch.Generator().manual_seed(2))
    code, weighed = codec.encode_twice(x, weights)
    plain = codec.encode(x)

    def whole(values):
        return values if code.neurons is None else torch.zeros_like(plain.acts).index_copy(-1, code.neurons, values)

    close(whole(code.acts), plain.acts)
    close(code.pre, code.pick(plain.pre))
    close(whole(weighed), codec.encode(x, weights).acts)
    close(codec.decode(code.acts, code, x), codec.decode(plain.acts, plain, x))
