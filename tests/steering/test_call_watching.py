"""A steered model is seen however it is wrapped, compiled or trained; what cannot be seen is said."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from uncached import HOOK, NEW, PROMPT, SIMPLE, SPECIAL, make_model, make_steered_sae, plain

import atlas
from atlas.errors import AtlasError
from atlas.steering.intervention import Steering
from atlas.steering.methods import METHODS

IDS = torch.tensor([PROMPT])
OLD_NAME = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
NO_BACKWARD = pytest.mark.filterwarnings("ignore:the model checkpoints gradients:UserWarning")  # a test of its own


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2")


@pytest.fixture(scope="module")
def sae():
    return make_steered_sae()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def steered(model, sae):
    with Steering(model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL]):
        return logits(model)


class Inner(nn.Module):
    """As PEFT's wrappers do: it runs the forward method itself, which hooks of the whole model do not see."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model.forward(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Outer(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.base_model = Inner(model)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base_model.generate(*args, **kwargs)


class Copying(nn.DataParallel):
    """As DataParallel does with several devices."""

    def forward(self, *args, **kwargs):
        return self.module._replicate_for_data_parallel()(*args, **kwargs)


@pytest.mark.parametrize("wrap", [Outer, nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("given", ["the wrapper", "the model"])
def test_a_wrapped_model_is_steered_through_the_wrapper_and_within(model, sae, steered, wrap, given):
    whole = wrap(model)
    unsteered = logits(whole)
    with Steering(
        whole if given == "the wrapper" else model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL]
    ) as steering:
        assert torch.equal(logits(whole), steered)
        assert steering.contamination()[0] is not None
        if not isinstance(whole, nn.DataParallel):
            whole.generate(IDS, max_new_tokens=2, do_sample=False)
    assert torch.equal(logits(whole), unsteered)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_generation_of_a_wrapped_model_keeps_to_the_positions(model, sae, positions):
    text, _ = plain("gpt2", "swap", positions)
    whole = Outer(model)
    with Steering(whole, [sae], method="swap", keep_error=False, positions=positions, special_ids=[SPECIAL]):
        assert whole.generate(IDS, max_new_tokens=NEW, do_sample=False)[0].tolist() == text


def test_a_model_that_is_compiled_inside_the_block_is_not_steered_after_it(model, sae, steered):
    with Steering(model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL]):
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(logits(compiled), steered)
    torch.testing.assert_close(logits(compiled), logits(model))


def test_a_compiled_forward_method_and_a_model_compiled_in_place_are_steered(sae, steered):
    for change in (
        lambda model: setattr(model, "forward", torch.compile(model.forward, backend="eager")),
        lambda model: model.compile(backend="eager"),
    ):
        model = make_model("gpt2")
        change(model)
        logits(model)
        with Steering(model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL]):
            assert torch.equal(logits(model), steered)


def test_copies_of_the_model_are_refused(model, sae):
    with pytest.raises(AtlasError, match="a copy of the model was called"), Steering(model, [sae]):
        logits(Copying(model))


def test_continuous_batching_is_refused(model, sae):
    with pytest.raises(AtlasError, match="several texts packed into one row"), Steering(model, [sae]):
        model.generate_batch([PROMPT])
    assert "generate_batch" not in vars(model)


def test_a_block_in_which_the_model_is_not_called_says_so(model, sae):
    with pytest.warns(UserWarning, match="nothing was steered"), Steering(model, [sae]):
        pass


def test_a_hook_that_never_runs_says_so(sae):
    model = make_model("gpt2")
    model.transformer.h[0].register_forward_pre_hook(lambda *args: None)
    model.transformer.forward = lambda input_ids, **kwargs: model.transformer.ln_f(model.transformer.wte(input_ids))
    model.forward = lambda input_ids, **kwargs: (model.lm_head(model.transformer(input_ids)),)
    with Steering(model, [sae]), pytest.raises(AtlasError, match=f"its hook {HOOK} never ran"):
        model(IDS)


def test_a_layer_without_its_model_is_refused(model, sae):
    with pytest.raises(AtlasError, match="was called without its model"), Steering(model, [sae]):
        model.transformer.h[0](torch.zeros(1, 3, 32))


def test_a_layer_on_another_device_than_its_sae_is_refused():
    model, far = make_model("gpt2"), make_steered_sae()
    far.codec.decoder_rows = far.codec.decoder_rows.to("meta")
    with pytest.raises(AtlasError, match="is on cpu and its SAE on meta"), Steering(model, [far]):
        logits(model)


def test_a_model_that_changes_its_number_format_goes_on_being_steered(sae):
    model = make_model("gpt2")
    with Steering(model, [sae], method="swap", keep_error=False):
        model.to(torch.bfloat16)
        assert logits(model).dtype == torch.bfloat16


def test_a_failed_call_leaves_nothing_behind(model, sae, steered):
    with Steering(model, [sae], method="clamp", keep_error=False, special_ids=[SPECIAL]):
        with pytest.raises(IndexError):
            model(torch.tensor([[9999]]))
        with pytest.raises(ValueError, match="max_new_tokens"):
            model.generate(IDS, max_new_tokens=0)
        assert torch.equal(logits(model), steered)


def test_figures_that_are_not_finite_are_left_out_and_said(sae):
    model = make_model("gpt2")

    def overflow(module, args, output):
        return torch.cat([output[:, :-1], output[:, -1:] * float("inf")], dim=1)

    model.transformer.h[0].register_forward_hook(overflow)
    with Steering(model, [sae], method="swap", keep_error=False) as steering:
        logits(model, torch.tensor([[41, 52, 30]]))
    with pytest.warns(UserWarning, match="figures leave out 1 tokens whose activations"):
        [purity] = steering.contamination()
    assert purity is not None
    assert 0 <= purity <= 1


# gradients


def gradients(model, ids=IDS):
    """Of the last token's largest logit, by the input embeddings and by the first layer's weights."""
    model.zero_grad()
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    out = model(inputs_embeds=embedded, use_cache=False).logits
    out[:, -1].amax(-1).sum().backward()
    return out.detach(), embedded.grad, model.transformer.h[0].mlp.c_fc.weight.grad.clone()


@pytest.fixture
def trained():
    return make_model("gpt2").requires_grad_()


def test_the_original_has_the_values_and_gradients_of_the_unsteered_model(trained, sae):
    expected = gradients(trained)
    with Steering(trained, [sae], method="original", special_ids=[SPECIAL]):
        found = gradients(trained)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("keep_error", [False, True])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "original"])
def test_gradients_pass_through_the_edits(trained, method, keep_error):
    """A step along the gradient changes the steered output by what the gradient says."""
    sae = make_steered_sae(double=True)
    trained.double()
    with Steering(trained, [sae], method=method, keep_error=keep_error, special_ids=[SPECIAL]):
        _, by_input, by_weight = gradients(trained)
        assert float(by_weight.abs().max()) > 0
        embedded, step = trained.get_input_embeddings()(IDS).detach(), 1e-6 * by_input / by_input.norm()
        step[:, 0] = 0  # a special token is known by its embedding
        ends = [trained(inputs_embeds=embedded + sign * step, use_cache=False).logits[0, -1] for sign in (1, -1)]
    change = float((ends[0].amax() - ends[1].amax()).detach())
    assert change == pytest.approx(2 * float((by_input * step).sum()), rel=1e-3)


@OLD_NAME
@NO_BACKWARD
@pytest.mark.parametrize("hook_name", [HOOK, "blocks.0.hook_mlp_out"])  # the second runs again, the first does not
def test_figures_hold_no_gradients_and_count_once_under_gradient_checkpointing(trained, hook_name):
    sae = make_steered_sae(hook_name)
    for method in SIMPLE:
        found = []
        for checkpointing in (False, True):
            model = without_dropout(deepcopy(trained).train())
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            with Steering(model, [sae], method=method, keep_error=False, special_ids=[SPECIAL]) as steering:
                for _ in range(2):
                    gradient = gradients(model)[2]
                found.append((gradient, steering.contamination(), steering.swapped()))
        torch.testing.assert_close(found[0][0], found[1][0])
        assert found[0][1:] == found[1][1:]


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@OLD_NAME
@NO_BACKWARD
def test_what_gradient_checkpointing_cannot_tell_is_said(trained):
    sae = make_steered_sae("blocks.0.hook_mlp_out")
    model = trained.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with Steering(model, [sae], method="swap", keep_error=False, special_ids=[SPECIAL]):
        loss = model(IDS).logits.sum() + model(IDS[:, :4]).logits.sum()
        with pytest.raises(AtlasError, match="call `backward` after each"):
            loss.backward()
    with pytest.warns(UserWarning, match="`backward` was not called inside the block"), Steering(model, [sae]):
        model(IDS)


# an atlas's own word


@pytest.mark.parametrize("wrap", [Outer, lambda model: torch.compile(model, backend="eager")])
def test_an_atlas_steers_a_wrapped_model(built_atlas, transformer, language_model, wrap):
    opened, whole, ids = atlas.open(built_atlas), wrap(transformer), IDS % 300
    with opened.steer(transformer, None, method="sae", tokenizer=language_model.tokenizer, keep_error=False):
        expected = logits(transformer, ids)
    before = logits(whole, ids)
    for given in (whole, transformer):
        with opened.steer(given, None, method="sae", tokenizer=language_model.tokenizer, keep_error=False):
            assert torch.equal(logits(whole, ids), expected)
    assert not torch.equal(before, expected)


def test_an_atlas_opened_in_inference_mode_steers_training_too(built_atlas, transformer, language_model):
    opened = atlas.open(built_atlas)
    model = deepcopy(transformer).train().requires_grad_()
    with torch.inference_mode():
        steering = opened.steer(model, None, method="swap", tokenizer=language_model.tokenizer)
    assert model.training
    with steering:
        model(IDS % 300).logits.sum().backward()
    assert float(model.transformer.h[0].mlp.c_fc.weight.grad.abs().max()) > 0
