"""Contract of the steering methods, over all of them and all kinds of SAE."""

from __future__ import annotations

import pytest
import tiny
import torch
from targets import ADDING, BY_VECTOR, EDITING, WITH_CODE, make_target

from atlas.errors import AtlasError, UnknownName
from atlas.models.codec import Codec
from atlas.steering.methods import METHODS, Target, settle_options
from atlas.steering.settings import Options


def make_x() -> torch.Tensor:
    return torch.randn(2, 5, tiny.D_MODEL, generator=torch.Generator().manual_seed(3))


def edit(kind: str, name: str, target: Target, x: torch.Tensor, **options):
    codec = Codec(tiny.make_kind(kind))
    return codec, METHODS[name].edit(codec, x, target, settle_options(name, Options(**options)))


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", ["swap", "weight"])
def test_scores_of_one_give_the_sae_unchanged(kind, name):
    x = make_x()
    codec, edited = edit(kind, name, make_target(ones=True), x)
    assert torch.equal(edited.acts, codec.encode(x).acts)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", ["clamp", "clamp-own", "clamp-plus"])
def test_clamping_no_neuron_gives_the_sae_unchanged(kind, name):
    x = make_x()
    codec, edited = edit(kind, name, make_target(), x, neurons=0)
    assert torch.equal(edited.acts, codec.encode(x).acts)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", ["add", *BY_VECTOR])
def test_strength_0_gives_x_itself(kind, name):
    x = make_x()
    _, edited = edit(kind, name, make_target(), x, strength=0.0)
    assert torch.equal(edited.activation, x)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", ADDING)
def test_an_added_step_keeps_shape_and_format_and_leaves_the_input_untouched(kind, name):
    x = make_x()
    for given in (x, x.bfloat16()):
        before = given.clone()
        _, edited = edit(kind, name, make_target(), given)
        assert edited.activation.shape == given.shape and edited.activation.dtype == given.dtype
        assert not torch.equal(edited.activation, before)
        assert torch.equal(given, before)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", WITH_CODE)
def test_a_code_keeps_its_shape_and_the_input_is_untouched(kind, name):
    x = make_x()
    before = x.clone()
    codec, edited = edit(kind, name, make_target(), x)
    assert edited.acts.shape == (2, 5, 24) and edited.acts.dtype == edited.code.acts.dtype
    assert torch.equal(edited.code.acts, codec.encode(x).acts)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_swap_keeps_the_values_of_the_pre_activation_and_drops_neurons_of_score_0(kind):
    target, x = make_target(), make_x()
    _, edited = edit(kind, "swap", target, x)
    chosen = edited.acts != 0
    assert chosen.any()
    assert torch.equal(edited.acts[chosen], edited.code.pre[chosen])
    assert not chosen[..., :4].any()


def test_swap_under_topk_brings_in_the_neurons_with_the_highest_score_times_pre_activation():
    target, x = make_target(), make_x()
    _, edited = edit("topk", "swap", target, x)
    best = (edited.code.pre * target.scores).topk(4).indices
    wanted = torch.zeros_like(edited.acts).scatter_(-1, best, 1).bool() & (edited.code.pre * target.scores > 0)
    assert torch.equal(edited.acts != 0, wanted)
    assert ((edited.acts != 0) & (edited.code.acts == 0)).any(), "some neuron is new"


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_literal_swap_equals_the_sae_where_neurons_do_not_compete(kind):
    target, x = make_target(), make_x()
    _, edited = edit(kind, "swap", target, x)
    scored = target.scores > 0
    assert torch.equal(edited.acts[..., scored], edited.code.acts[..., scored])


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("name", ["swap", "weight"])
def test_sigma_topk_chooses_at_most_as_many_neurons_as_the_token_has(kind, name):
    _, edited = edit(kind, name, make_target(), make_x(), sigma="topk")
    assert ((edited.acts != 0).sum(-1) <= (edited.code.acts != 0).sum(-1)).all()
    assert (edited.acts != 0).any()


def test_sigma_topk_brings_new_neurons_into_a_jumprelu_sae_and_the_literal_swap_does_not():
    target, x = make_target(), make_x()
    _, literal = edit("jumprelu", "swap", target, x)
    _, own_count = edit("jumprelu", "swap", target, x, sigma="topk")
    assert not ((literal.acts != 0) & (literal.code.acts == 0)).any()
    assert ((own_count.acts != 0) & (own_count.code.acts == 0)).any()


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_clamps_change_the_best_neurons_as_their_formulas_say(kind):
    target, x = make_target(), make_x()
    best, rest = target.best[:3], target.best[3:]
    for name, formula in {
        "clamp": lambda a: torch.full_like(a, 1) * 7 * target.max_activation[best],
        "clamp-own": lambda a: 7 * a,
        "clamp-plus": lambda a: a + 7,
    }.items():
        _, edited = edit(kind, name, target, x, strength=7.0, neurons=3)
        torch.testing.assert_close(edited.acts[..., best], formula(edited.code.acts[..., best]))
        assert torch.equal(edited.acts[..., rest], edited.code.acts[..., rest])


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
def test_add_moves_x_by_the_best_decoder_rows(kind, normalisation):
    target, x = make_target(), make_x()
    codec = Codec(tiny.make_kind(kind, normalize_activations=normalisation))
    moved = METHODS["add"].edit(codec, x, target, settle_options("add", Options(strength=2.0, neurons=2))).activation
    a, b = target.best[:2]
    step = target.max_activation[a] * codec.decoder_rows[a] + target.max_activation[b] * codec.decoder_rows[b]
    scale = {
        "none": 1.0,
        "layer_norm": x.std(-1, keepdim=True),
        "constant_norm_rescale": x.norm(dim=-1, keepdim=True) / 32**0.5,
    }
    torch.testing.assert_close(moved, x + 2 * scale[normalisation] * step)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_the_saes_own_selection_leaves_a_code_of_its_own_as_it_is(kind):
    codec = Codec(tiny.make_kind(kind))
    code = codec.encode(make_x())
    assert torch.equal(codec.select(code.acts), code.acts)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("standard", [3, 0, 0.5, 0, 2, 0.01]),
        ("gated", [3, 0, 0.5, 0, 2, 0.01]),
        ("jumprelu", [3, 0, 0, 0, 2, 0]),
        ("topk", [3, 0, 0, 0, 2, 0]),
        ("abstopk", [0, -4, 0, 0, 0, 0]),
    ],
)
def test_selection_is_relu_threshold_topk_or_topk_by_magnitude(kind, expected):
    codec = Codec(tiny.make_kind(kind, d_sae=6))
    if kind == "jumprelu":
        codec.sae.threshold.data.fill_(1)
    if kind.endswith("topk"):
        codec.sae.cfg.k = {"topk": 2, "abstopk": 1}[kind]
    assert codec.select(torch.tensor([3, -4, 0.5, -0.5, 2, 0.01])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
@pytest.mark.parametrize("strength", [2.0, -1.5])
def test_sas_selects_again_from_the_code_and_the_vector(kind, strength):
    target, x = make_target(), make_x()
    codec, edited = edit(kind, "sas", target, x, strength=strength)
    moved = codec.encode(x).acts + strength * target.vector("sas")
    torch.testing.assert_close(edited.acts, codec.select(moved))
    _, plain = edit(kind, "sas", target, x, strength=strength, sigma="none")
    torch.testing.assert_close(plain.acts, moved)
    if codec.signed:
        with pytest.raises(AtlasError, match="AbsTopK"):
            edit(kind, "sas", target, x, strength=strength, sigma="relu")
    else:
        _, positive = edit(kind, "sas", target, x, strength=strength, sigma="relu")
        torch.testing.assert_close(positive.acts, moved.clamp(min=0))


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_sas_without_selection_and_with_the_error_kept_adds_the_decoded_vector(kind):
    target, x = make_target(), make_x()
    codec, edited = edit(kind, "sas", target, x, strength=-2.0, sigma="none")
    torch.testing.assert_close(
        codec.shift(x, edited.code, edited.acts), x - 2 * target.vector("sas") @ codec.decoder_rows
    )


def test_dense_adds_its_vector_whatever_the_sae():
    target, x = make_target(), make_x()
    _, edited = edit("gated", "dense", target, x, strength=-3.0)
    torch.testing.assert_close(edited.activation, x - 3 * target.vector("dense"))


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_filtered_with_scores_of_1_adds_what_the_sae_reads_of_the_difference_of_two_activations(kind):
    codec = Codec(tiny.make_kind(kind))
    positive, negative = make_x()[0, :1], make_x()[1, :1]
    codes = [codec.encode(side) for side in (positive, negative)]
    target = make_target(ones=True).with_vectors(difference=(codes[0].acts - codes[1].acts).squeeze(0))
    x = make_x()
    moved = METHODS["filtered"].edit(codec, x, target, settle_options("filtered", Options())).activation
    decoded = [codec.decode(code.acts, code, side) for code, side in zip(codes, (positive, negative), strict=True)]
    torch.testing.assert_close(moved - x, (decoded[0] - decoded[1]).expand_as(x), atol=1e-4, rtol=1e-4)


def test_filtered_mutes_neurons_of_score_0():
    target, x = make_target(), make_x()
    only = torch.zeros(24)
    only[0] = 5.0  # a neuron without a score
    muted = target.with_vectors(difference=only)
    _, edited = edit("standard", "filtered", muted, x)
    assert torch.equal(edited.activation, x)


@pytest.mark.parametrize("name", EDITING)
def test_every_method_has_a_help_line_and_settles_its_defaults(name):
    settled = settle_options(name, Options())
    assert METHODS[name].help
    assert (settled.strength, settled.neurons) == (METHODS[name].strength, METHODS[name].neurons)


def test_an_option_that_a_method_does_not_have_is_refused():
    with pytest.raises(AtlasError, match="method swap has no strength"):
        settle_options("swap", Options(strength=2.0))
    with pytest.raises(AtlasError, match="method add has no sigma"):
        settle_options("add", Options(sigma="topk"))
    with pytest.raises(AtlasError, match="-1 is negative"):
        settle_options("clamp", Options(neurons=-1))
    with pytest.raises(UnknownName, match="unknown method 'swop': known are swap"):
        settle_options("swop", Options())
    with pytest.raises(UnknownName, match="unknown sigma of method swap 'relu': known are"):
        settle_options("swap", Options(sigma="relu"))
    with pytest.raises(UnknownName, match="unknown sigma 'rule': known are relu"):
        settle_options("sas", Options(sigma="rule"))


def test_sae_is_another_name_for_the_saes_own_selection():
    assert settle_options("sas", Options(sigma="sae")) == settle_options("sas", Options())
    assert settle_options("add", Options(sigma="sae")) == settle_options("add", Options())
