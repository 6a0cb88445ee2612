"""Contract of the steering methods, over all of them and all kinds of SAE."""

from __future__ import annotations

import pytest
import tiny
import torch

from atlas.codec import Codec
from atlas.errors import AtlasError, UnknownName
from atlas.methods import METHODS, Options, Target, settle_options

EDITING = [name for name, method in METHODS.items() if method.edit]
WITH_CODE = [name for name in EDITING if name != "add"]


def make_target(d_sae: int = 24, *, ones: bool = False) -> Target:
    generator = torch.Generator().manual_seed(5)
    scores = torch.ones(d_sae) if ones else torch.rand(d_sae, generator=generator)
    known = torch.arange(d_sae)
    if not ones:
        scores[:4] = 0  # as for neurons without a score: never chosen
        known = known[4:]
    best = known[scores[known].argsort(descending=True, stable=True)]
    return Target(scores, 1 + torch.rand(d_sae, generator=generator), best)


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
def test_adding_with_strength_0_gives_x_itself(kind):
    x = make_x()
    _, edited = edit(kind, "add", make_target(), x, strength=0.0)
    assert torch.equal(edited.activation, x)


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
    with pytest.raises(UnknownName, match="unknown sigma"):
        settle_options("swap", Options(sigma="relu"))
