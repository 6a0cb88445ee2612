"""Steering a model: hooks, positions, caches, figures; on a Hugging Face model and on a TransformerBridge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from targets import BY_VECTOR, EDITING, make_target

from atlas.errors import AtlasError, ModelError, UnknownName
from atlas.models.codec import Codec
from atlas.steering.intervention import Steering
from atlas.steering.methods import METHODS, EditedCode, SteeredSae, settle_options
from atlas.steering.settings import Options

IDS = torch.tensor([[0, 30, 41, 52, 63, 74]])


@pytest.fixture(params=["transformer", "bridge"])
def model(request, transformer, language_model):
    return transformer if request.param == "transformer" else language_model.bridge


def make_steered_sae(
    kind: str = "topk", hook_name: str = "blocks.0.hook_resid_post", *, ones: bool = False
) -> SteeredSae:
    return SteeredSae(hook_name, Codec(tiny.make_kind(kind, hook_name=hook_name)), make_target(ones=ones))


def logits(model, ids=IDS):
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


def generate(model, *, use_cache: bool, tokens: int = 8):
    if hasattr(model, "hook_dict"):
        return model.generate(
            IDS, max_new_tokens=tokens, do_sample=False, stop_at_eos=False, verbose=False, use_past_kv_cache=use_cache
        )
    return model.generate(IDS, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, use_cache=use_cache)


@pytest.mark.parametrize("keep_error", [False, True])
def test_an_activation_longer_than_the_sae_was_trained_on_is_not_steered(transformer, keep_error):
    for method in METHODS:
        if METHODS[method].edit is None:
            continue
        sae, x = make_steered_sae(), torch.randn(1, IDS.shape[1], tiny.D_MODEL)
        x[0, 2] *= 1000
        sae.codec.largest_input_norm = 100.0
        steering = Steering(transformer, [sae], method=method, keep_error=keep_error, special_ids=[0])
        with steering, torch.no_grad():
            changed = []
            block = transformer.transformer.h[0]
            before = block.register_forward_hook(lambda *_: x, prepend=True)
            after = block.register_forward_hook(lambda _m, _i, out, changed=changed: changed.append(out))
            transformer(IDS)
            before.remove()
            after.remove()
        moved = (changed[0] - x).abs().amax(-1)[0]
        assert moved[2] == 0, method
        assert moved[[1, 3, 4, 5]].max() > 0 or (method == "sae" and keep_error), method


@pytest.mark.parametrize("keep_error", [False, True])
@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_cached_generation_equals_uncached_generation_for_every_method(transformer, kind, keep_error):
    for method in METHODS:
        runs = []
        for use_cache in (True, False):
            with Steering(
                transformer, [make_steered_sae(kind)], method=method, keep_error=keep_error, special_ids=[0]
            ) as steering:
                runs.append((generate(transformer, use_cache=use_cache), steering.contamination()))
        (cached, purity), (uncached, uncached_purity) = runs
        assert torch.equal(cached, uncached), method
        assert purity == pytest.approx(uncached_purity, abs=1e-4), method


@pytest.fixture(scope="module")
def bridge_fills_its_cache(language_model):
    """Whether the installed TransformerLens and Transformers generate alike with and without a cache, unsteered."""
    return torch.equal(*(generate(language_model.bridge, use_cache=use_cache) for use_cache in (True, False)))


@pytest.mark.parametrize("method", METHODS)
def test_cached_generation_equals_uncached_generation_on_a_bridge(language_model, bridge_fills_its_cache, method):
    if not bridge_fills_its_cache:
        with (
            pytest.raises(AtlasError, match="use_past_kv_cache=False"),
            Steering(language_model.bridge, [make_steered_sae()], method=method, keep_error=False, special_ids=[0]),
        ):
            generate(language_model.bridge, use_cache=True)
        return
    texts = []
    for use_cache in (True, False):
        with Steering(language_model.bridge, [make_steered_sae()], method=method, keep_error=False, special_ids=[0]):
            texts.append(generate(language_model.bridge, use_cache=use_cache))
    assert torch.equal(*texts)


@pytest.mark.parametrize("method", METHODS)
def test_a_bridge_and_the_model_behind_it_are_steered_alike(transformer, language_model, method):
    found = []
    for model in (transformer, language_model.bridge):
        with Steering(model, [make_steered_sae()], method=method, keep_error=False, special_ids=[0]):
            found.append(logits(model))
    torch.testing.assert_close(*found, atol=2e-3, rtol=1e-3)


def test_hooks_are_gone_after_the_block_even_when_it_fails(model):
    before = logits(model)
    with pytest.raises(RuntimeError), Steering(model, [make_steered_sae()], method="clamp", keep_error=False):
        assert not torch.allclose(logits(model), before)
        raise RuntimeError
    assert torch.equal(logits(model), before)
    with (
        pytest.raises(ModelError),
        Steering(model, [make_steered_sae(), make_steered_sae(hook_name="blocks.9.hook_resid_post")]),
    ):
        pass
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", tiny.SUPPORTED_KINDS)
def test_neutral_settings_give_the_neutral_result(transformer, kind):
    plain = logits(transformer)
    neutral = [("original", {})]
    neutral += [(name, {"options": Options(strength=0.0)}) for name in ("add", *BY_VECTOR)]
    neutral += [
        (name, {"keep_error": True, "options": Options(neurons=0)}) for name in ("clamp", "clamp-own", "clamp-plus")
    ]
    for method, settings in neutral:
        with Steering(transformer, [make_steered_sae(kind)], method=method, **{"keep_error": False, **settings}):
            assert torch.equal(logits(transformer), plain), method
    with Steering(transformer, [make_steered_sae(kind)], method="sae", keep_error=True):
        assert torch.equal(logits(transformer), plain)
    with Steering(transformer, [make_steered_sae(kind)], method="sae", keep_error=False):
        reconstructed = logits(transformer)
    for method in ("swap", "weight"):
        with Steering(transformer, [make_steered_sae(kind, ones=True)], method=method, keep_error=False):
            assert torch.equal(logits(transformer), reconstructed), method


def test_special_tokens_are_left_alone_by_id(transformer):
    seen = []
    sae = make_steered_sae()
    with Steering(transformer, [sae], method="clamp", keep_error=False, special_ids=[0, 52]):
        handle = transformer.transformer.h[1].register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
        logits(transformer)
        handle.remove()
    handle = transformer.transformer.h[1].register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    logits(transformer)
    handle.remove()
    same = (seen[0] == seen[1]).all(-1)[0].tolist()
    assert same == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("positions", "first_same", "later_same"),
    [("prompt", False, True), ("generated", True, False), ("all", False, False)],
)
@pytest.mark.parametrize("use_cache", [True, False])
def test_positions_choose_prompt_or_generated_tokens(transformer, positions, first_same, later_same, use_cache):
    seen: list[torch.Tensor] = []
    sae = make_steered_sae()
    with Steering(transformer, [sae], method="clamp", keep_error=False, positions=positions):
        after = transformer.transformer.h[0].register_forward_hook(lambda m, a, out: seen.append(out))
        # a hook of ours, run before the block's output reaches it, sees what went in
        generate(transformer, use_cache=use_cache, tokens=3)
        after.remove()
    plain: list[torch.Tensor] = []
    handle = transformer.transformer.h[0].register_forward_hook(lambda m, a, out: plain.append(out))
    full = torch.cat([s[0] if isinstance(s, tuple) else s for s in seen], dim=1) if use_cache else _last(seen)
    with torch.no_grad():
        transformer(_ids_of(transformer, sae, positions, use_cache))
    handle.remove()
    same = torch.isclose(full, _last(plain)[:, : full.shape[1]], atol=1e-4).all(-1)[0]
    prompt = IDS.shape[1]
    assert bool(same[:prompt].all()) is first_same
    assert bool(same[prompt:].all()) is later_same


def _last(outputs):
    return outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]


def _ids_of(transformer, sae, positions, use_cache):
    with Steering(transformer, [sae], method="clamp", keep_error=False, positions=positions):
        return generate(transformer, use_cache=use_cache, tokens=3)


def test_several_layers_and_several_saes_at_one_hook_all_work(model):
    first, second = make_steered_sae("topk"), make_steered_sae("standard")
    later = make_steered_sae("jumprelu", "blocks.1.hook_resid_pre")
    results = []
    for saes in ([first], [first, second], [first, second, later]):
        with Steering(model, saes, method="clamp-plus", keep_error=True):
            results.append(logits(model))
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[1], results[2])


@pytest.mark.parametrize("method", ["swap", "add"])
def test_contamination_is_the_normalised_sum_of_the_papers_formula(transformer, method):
    sae = make_steered_sae()
    caught = []
    handle = transformer.transformer.h[0].register_forward_hook(lambda m, a, out: caught.append(out))
    logits(transformer)
    handle.remove()
    x = _last(caught)
    edit = METHODS[method].edit(sae.codec, x, sae.target, settle_options(method, Options()))
    acts = edit.acts if isinstance(edit, EditedCode) else sae.codec.encode(edit.activation).acts
    acts = acts[0, 1:].abs()
    by_hand = [float((a * (1 - sae.target.scores)).sum() / a.sum()) for a in acts if a.sum() > 0]
    with Steering(transformer, [sae], method=method, keep_error=False, special_ids=[0]) as steering:
        logits(transformer)
    assert steering.contamination() == pytest.approx([sum(by_hand) / len(by_hand)], rel=1e-4)


@pytest.mark.parametrize("method", ["swap", "add", "original"])
def test_figures_summed_on_the_way_equal_figures_summed_at_the_end(transformer, method, monkeypatch):
    found = []
    for waiting in (10**9, 0):
        monkeypatch.setattr("atlas.steering.contamination.WAITING", waiting)
        with Steering(transformer, [make_steered_sae()], method=method, keep_error=False, special_ids=[0]) as steering:
            generate(transformer, use_cache=True)
        found.append((*steering.contamination(), *steering.swapped()[0].values()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0][0] > 0


def test_a_new_prompt_starts_the_figures_afresh(transformer):
    sae = make_steered_sae()
    with Steering(transformer, [sae], method="swap", keep_error=False) as steering:
        logits(transformer)
        once = steering.contamination()
        logits(transformer, torch.tensor([[80, 81, 82]]))
        logits(transformer)
        assert steering.contamination() == once


def test_embeddings_without_ids_are_steered_at_every_position_and_that_is_said(transformer):
    embedded = transformer.get_input_embeddings()(IDS)
    with (
        Steering(transformer, [make_steered_sae()], method="clamp", keep_error=False, special_ids=[0]) as steering,
        torch.no_grad(),
    ):
        transformer(inputs_embeds=embedded)
    assert steering.saw_embeddings


def test_swap_reports_kept_new_and_dropped_neurons(transformer):
    with Steering(transformer, [make_steered_sae("topk")], method="swap", keep_error=False) as steering:
        logits(transformer)
    [counts] = steering.swapped()
    assert counts["kept"] + counts["dropped"] == pytest.approx(4, abs=1)
    assert counts["new"] > 0


@pytest.mark.parametrize("method", EDITING)
def test_half_precision_models_keep_their_number_format(transformer, method):
    from copy import deepcopy

    half = deepcopy(transformer).to(torch.bfloat16)
    with Steering(half, [make_steered_sae()], method=method, keep_error=False):
        assert logits(half).dtype == torch.bfloat16


@pytest.mark.parametrize("method", BY_VECTOR)
def test_without_a_vector_or_with_an_empty_one_a_method_that_needs_it_is_refused(transformer, method):
    sae = make_steered_sae()
    none, empty = {}, {METHODS[method].vector: torch.zeros(3)}
    for vectors, message in ((none, "name one with --vector"), (empty, "the vector has no entry")):
        target = replace(sae.target, vectors=vectors)
        with pytest.raises(AtlasError, match=message):
            Steering(transformer, [replace(sae, target=target)], method=method, keep_error=False)


@pytest.mark.parametrize("method", BY_VECTOR)
def test_opposite_strengths_of_a_vector_steer_apart(transformer, method):
    plain, moved = logits(transformer), []
    for strength in (1.0, -1.0):
        with Steering(
            transformer, [make_steered_sae()], method=method, options=Options(strength=strength), keep_error=True
        ):
            moved.append(logits(transformer) - plain)
    assert min(float(move.abs().max()) for move in moved) > 1e-3
    assert float(torch.cosine_similarity(moved[0].flatten(), moved[1].flatten(), dim=0)) < 0.5


def test_unknown_positions_are_refused(transformer):
    with pytest.raises(UnknownName, match="unknown positions 'last'"):
        Steering(transformer, [make_steered_sae()], positions="last")


def test_a_steering_is_entered_once_at_a_time_and_again_when_it_was_left(transformer):
    plain = logits(transformer)
    steering = Steering(transformer, [make_steered_sae()], method="add")
    with steering:
        moved = logits(transformer)
        with pytest.raises(AtlasError, match="is entered already: leave it first, or make another one"), steering:
            pass
        assert torch.equal(logits(transformer), moved)
    assert torch.equal(logits(transformer), plain)
    with steering:
        assert torch.equal(logits(transformer), moved)
    assert torch.equal(logits(transformer), plain)
