"""Check that a hook's place gives what it should: a bridge's against the plain model's, a plain model's against an atlas.

TransformerLens and this package find places in a model on their own, family by family. So nothing is taken for right that
was not compared: at build a sentence runs through both models, and before a plain model is steered it has to give, at its
place, the activations that the atlas holds of one of its prompts.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.codec import Codec
from atlas.models.hooks import catch_activations, catching, find_site, require_finite, require_ran
from atlas.models.loading import LanguageModel
from atlas.models.quiet import no_notice_of_pads
from atlas.models.saes import LoadedSae
from atlas.models.tokens import special_ids, token_rows, with_bos
from atlas.store.session import Asks

SENTENCE = "The quick brown fox, born in 1984, jumps over the lazy dog."
# Shares of the largest value, in float32; coarser number formats may differ by so many of their steps.
EXACT = (1e-5, 4)  # closer than that the order of sums explains
SAID = (1e-4, 4)  # a difference worth a word
REFUSED_HOOK = (1e-3, 8)
REFUSED_LOGITS = (1e-2, 16)
REFUSED_CODES = (1e-2, 16)
HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_hooks(model: LanguageModel, saes: Sequence[LoadedSae]) -> tuple[LanguageModel, list[str]]:
    """Compare a bridge with the plain model behind it on a sentence.

    Returns:
        The model, with activations taken from the plain one where the bridge's are off and it has every hook; and what a
        user should know, a line each.

    Raises:
        ModelError: an SAE does not fit its hook's width, a hook never runs or overflows, or the two models differ by more
            than number formats explain.
    """
    names = list(dict.fromkeys(sae.hook_name for sae in saes))
    batch = _probe(model)
    with torch.no_grad(), no_notice_of_pads(), catching(model.bridge, names) as bridged:
        logits = model.bridge(batch, return_type="logits")
    require_ran(bridged, names)
    for sae in saes:
        require_finite(bridged[sae.hook_name], sae.hook_name)
        width = sae.codec.flatten(bridged[sae.hook_name]).shape[-1]
        if width != sae.codec.d_in:
            raise ModelError(
                f"SAE {sae.sae_id} has d_in {sae.codec.d_in}, but {sae.hook_name} of {model.name} is {width} wide: "
                "use the model the SAE was trained on"
            )
    missing = [name for name in names if not _has_site(model.plain, name)]
    with torch.no_grad(), catching(model.plain, [name for name in names if name not in missing]) as plain:
        true = model.plain(batch, attention_mask=torch.ones_like(batch), use_cache=False).logits
    notes = [f"{name} is not found in the plain model: steer through a TransformerBridge" for name in missing]
    for name in plain:
        notes += _compare(name, bridged[name], plain[name], REFUSED_HOOK)
    if logits.shape == true.shape and true.isfinite().all():
        notes += _compare("the logits", logits, true, REFUSED_LOGITS)
    off = [name for name in plain if _off(bridged[name], plain[name]) > _limit(EXACT, plain[name].dtype)]
    if off and not missing:
        notes.append(f"activations at {', '.join(off)} are taken from the Hugging Face model")
        model = replace(model, reads_plain=True)
    return model, notes


def _compare(name: str, bridged: Tensor, plain: Tensor, bound: tuple[float, int]) -> list[str]:
    off = _off(bridged, plain)
    if off > _limit(bound, plain.dtype):
        raise ModelError(
            f"the TransformerBridge and the Hugging Face model differ at {name} by {off:.1g} of the largest value, more than "
            f"{_limit(bound, plain.dtype):.1g}: activations cannot be trusted there; use another hook or model"
        )
    if off > _limit(SAID, plain.dtype):
        return [f"the TransformerBridge is off by {off:.1g} of the largest value at {name}"]
    return []


def _off(bridged: Tensor, plain: Tensor) -> float:
    return difference(bridged.flatten(2), plain.flatten(2))


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of two tensors as a share of the largest value; infinite where their shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    largest = wanted.double().abs().max().clamp(min=1e-30)
    return float((found.double() - wanted.double()).abs().max() / largest)


def check_place(session: Asks, model: nn.Module, tokenizer: Any, row: Mapping[str, Any], codec: Codec) -> None:
    """Raise ModelError unless a plain model gives, at an SAE's hook, the activations that the atlas holds of a prompt.

    A TransformerBridge is what the atlas was built through, and an SAE that never fired has nothing to compare.

    Args:
        session: of the atlas.
        model: a Hugging Face model or a TransformerBridge.
        tokenizer: the model's.
        row: the SAE's row of `saes`.
        codec: the SAE.
    """
    inner = getattr(model, "_orig_mod", model)  # of a compiled one
    examples = session.ask("placed_examples", sae_key=row["sae_key"])
    if hasattr(inner, "hook_dict") or not examples.height:
        return
    [ids] = token_rows(tokenizer, examples["text"][:1].to_list(), prepend_bos=False)
    rows = [with_bos(tokenizer, ids, prepend_bos=row["prepend_bos"])]
    if row["prepend_bos"] and rows[0] == ids:
        rows.append([ids[0], *ids])  # older atlases gave a text that begins with BOS a second one
    twin = unhooked_twin(inner)
    off = min(_codes_off(twin, found[: row["context_size"]], row["hook_name"], examples, codec) for found in rows)
    if not off <= _limit(REFUSED_CODES, next(inner.parameters()).dtype):
        raise ModelError(
            f"{row['hook_name']} of this model gives other activations than the atlas was built with ({off:.0%} off in the "
            "middle of the stored ones): pass a TransformerBridge, or build the atlas again"
        )


def _codes_off(model: nn.Module, ids: Sequence[int], hook_name: str, examples: Any, codec: Codec) -> float:
    """The middle one of the relative differences from the stored activations: at its limit TopK may choose otherwise."""
    if len(ids) <= examples["position"].max():
        return float("inf")
    batch = torch.tensor([list(ids)], device=next(model.parameters()).device)
    x = catch_activations(model, batch, torch.ones_like(batch, dtype=torch.bool), [hook_name])[hook_name]
    if codec.flatten(x).shape[-1] != codec.d_in:
        return float("inf")
    places, neurons = (torch.from_numpy(examples[name].to_numpy().astype("int64")) for name in ("position", "neuron"))
    found = codec.encode(x[0]).acts.abs().double().cpu()[places, neurons]
    wanted = torch.from_numpy(examples["activation"].to_numpy().astype("float64"))
    return float(((found - wanted).abs() / wanted).median())


def unhooked_twin(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its tensors and has no hooks: running it is seen by nothing that watches the model."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return model  # spread over devices by hooks that it needs
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        shared |= {id(vars(module)[name]): OrderedDict() for name in HOOK_TABLES if name in vars(module)}
        shared |= {id(value): value for value in vars(module).values() if callable(value)}  # what watches `generate`
    return copy.deepcopy(model, shared)


def _probe(model: LanguageModel) -> Tensor:
    """The sentence as token ids [1, token], or what special tokens there are where the tokenizer makes none of it."""
    [ids] = token_rows(model.tokenizer, [SENTENCE], prepend_bos=False)
    ids = ids or sorted(special_ids(model.tokenizer)) or [0]
    return torch.tensor([ids[: model.context_size]], device=next(model.bridge.parameters()).device)


def _has_site(model: nn.Module, hook_name: str) -> bool:
    try:
        find_site(model, hook_name)
    except ModelError:
        return False
    return True


def _limit(bound: tuple[float, int], dtype: torch.dtype) -> float:
    share, steps = bound
    return max(share, steps * torch.finfo(dtype).eps)
