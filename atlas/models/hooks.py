"""Find the place a TransformerLens hook name means, in a TransformerBridge or in a plain Hugging Face model.

A site is a module and a side of it: its input or its output is the activation. On a bridge every hook is a module of
its own; on a plain model the residual stream, what attention and MLP add to it, and the joined heads can be found.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.configs import text_config, text_tower
from atlas.models.loaded import LoadedModel
from atlas.models.tokens import pad_rows, special_ids

ATTENTION = ("attn", "self_attn", "attention", "self_attention")
PROJECTION = ("c_proj", "o_proj", "out_proj", "dense", "wo", "Wo")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
# In models that norm what attention and MLP give before adding it to the residual stream. A post_attention_layernorm
# stands behind attention only where there is a norm behind the MLP too: elsewhere it is the one before the MLP.
NORM_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
NORM_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")
PATTERN = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_resid_post|hook_attn_out|hook_mlp_out|attn\.hook_z)")
STREAM = ("hidden_states", "hidden_state", "x")  # what a module calls the activation it is given, when by keyword
RESIDUAL = "residual"  # the argument of a module that adds the residual stream itself


class Handle:
    """Several hooks that are removed together."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = list(handles)

    def remove(self) -> None:
        """Take the hooks away; a second time does nothing."""
        while self._handles:
            self._handles.pop().remove()


@dataclass(frozen=True)
class Site:
    """A place in a model.

    Attributes:
        module: the module whose input or output the activation is.
        reads_input: whether it is the input.
        heads: number of heads to split the last dimension into, 0 to leave it.
        conversion: what a TransformerBridge does to the module's output before a hook sees it, and takes back after.
        block: the layer around the module, whose input says how many texts and tokens there are; None where the module
            itself is never given tokens in one row.
        adds_residual: whether the module adds the residual stream, which is not part of the activation, itself.
    """

    module: nn.Module
    reads_input: bool = False
    heads: int = 0
    conversion: Any = None
    block: nn.Module | None = None
    adds_residual: bool = False

    def edit(self, function: Callable[[Tensor], Tensor]) -> Handle:  # noqa: C901 - small hooks that share two lists
        """Pass the activation [batch, token, ...] through `function` at every forward call, until the handle is removed."""
        shape: list[torch.Size] = []  # [batch, token] of the call that is on
        residuals: list[Tensor] = []

        def change(x: Tensor) -> Tensor:
            if self.conversion is not None:
                return self.conversion.revert(function(_checked(self.conversion.convert(x))))
            if (
                x.ndim == 2 and shape and x.shape[0] == shape[-1].numel()
            ):  # OPT and some experts put all tokens in one row
                return function(x.unflatten(0, shape[-1])).flatten(0, 1)
            _checked(x)
            return function(x.unflatten(-1, (self.heads, -1))).flatten(-2) if self.heads else function(x)

        def _checked(x: Tensor) -> Tensor:
            if x.ndim < 3:
                raise ModelError(
                    f"the activation at {type(self.module).__name__} has shape {tuple(x.shape)} instead of [batch, token, "
                    "...]: use another hook of this model"
                )
            return x

        def look(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            shape[:] = [_stream(args, kwargs).shape[:2]]

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return _replace_stream(change(_stream(args, kwargs)), args, kwargs)

        def withhold(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = inspect.signature(module.forward).bind_partial(*args, **kwargs)
            residuals[:] = [given.arguments[RESIDUAL]]
            given.arguments[RESIDUAL] = torch.zeros_like(residuals[0])
            return given.args, given.kwargs

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple | list) else output
            changed = change(first)
            if residuals:
                changed = residuals.pop() + changed
            return type(output)([changed, *output[1:]]) if isinstance(output, tuple | list) else changed

        handles: list[Any] = []
        if self.block is not None:
            handles.append(self.block.register_forward_pre_hook(look, with_kwargs=True))
        if self.adds_residual:
            # the last edit withholds first, so that only it gives back, when all others have had their turn
            handles.append(self.module.register_forward_pre_hook(withhold, with_kwargs=True, prepend=True))
        if self.reads_input:
            handles.append(self.module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            handles.append(self.module.register_forward_hook(after))
        return Handle(handles)


@contextmanager
def catching(
    model: nn.Module, hook_names: Iterable[str], *, after_each: Callable[[Mapping[str, Tensor]], None] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Fill a dict, hook name -> activation, at every forward call of the model while the block lasts.

    Args:
        model: the model.
        hook_names: where to catch.
        after_each: called with the dict whenever a hook has run.
    """
    caught: dict[str, Tensor] = {}

    def catch(name: str, x: Tensor) -> Tensor:
        caught[name] = x.detach().clone()  # some models go on adding into the same memory
        if after_each is not None:
            after_each(caught)
        return x

    handles: list[Handle] = []
    try:
        for name in dict.fromkeys(hook_names):
            handles.append(find_site(model, name).edit(lambda x, name=name: catch(name, x)))  # type: ignore[misc]
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def find_site(model: nn.Module, hook_name: str) -> Site:
    """The site of a hook name; ModelError when the model has none of that name."""
    hooks = getattr(model, "hook_dict", None)
    if hooks is not None:
        if hook_name not in hooks:
            raise ModelError(f"the model has no hook {hook_name}: is it the model the SAE was trained on?")
        return Site(hooks[hook_name], conversion=getattr(hooks[hook_name], "hook_conversion", None))
    match = PATTERN.fullmatch(hook_name)
    if not match:
        raise ModelError(f"{hook_name} cannot be found in a plain Hugging Face model: pass a TransformerBridge")
    blocks = find_blocks(model)
    layer, place = int(match.group(1)), match.group(2)
    if layer >= len(blocks):
        raise ModelError(f"{hook_name}: the model has {len(blocks)} layers, is it the model the SAE was trained on?")
    block = blocks[layer]
    if place.startswith("hook_resid"):
        return Site(block, reads_input=place == "hook_resid_pre")
    if place == "attn.hook_z":
        return _joined_heads(model, block, hook_name)
    norm = _child(block, NORM_AFTER_MLP)
    if place == "hook_mlp_out":
        module = norm or _child(block, MLP)
    else:
        self_norm = _child(block, NORM_AFTER_ATTENTION[:1])
        module = self_norm or (_child(block, NORM_AFTER_ATTENTION) if norm else None) or _child(block, ATTENTION)
    module = _require(module, block, hook_name)
    adds_residual = RESIDUAL in inspect.signature(module.forward).parameters
    return Site(module, block=block, adds_residual=adds_residual)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of the layers of a Hugging Face model, of its text tower where it has several; ModelError without one."""
    count = getattr(text_config(model), "num_hidden_layers", None)
    tower = text_tower(model)
    lists = {
        name: module
        for name, module in tower.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not lists:
        raise ModelError(f"no list of {count} layers in {type(model).__name__}: pass a TransformerBridge")
    return lists[min(lists, key=lambda name: name.count("."))]  # the outermost: experts may be as many


def _joined_heads(model: nn.Module, block: nn.Module, hook_name: str) -> Site:
    attention = _require(_child(block, ATTENTION), block, hook_name)
    inner = next((m for m in attention.children() if hasattr(m, PROJECTION[0]) or hasattr(m, PROJECTION[2])), attention)
    heads = getattr(text_config(model), "num_attention_heads", None)
    if not heads:
        raise ModelError(
            f"{hook_name}: the model's settings do not say how many heads it has: pass a TransformerBridge"
        )
    return Site(_require(_child(inner, PROJECTION), inner, hook_name), reads_input=True, heads=heads)


def _stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The activation among a module's arguments."""
    if args:
        return args[0]
    return next(kwargs[name] for name in STREAM if name in kwargs)


def _replace_stream(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (x, *args[1:]), kwargs
    return args, {**kwargs, next(name for name in STREAM if name in kwargs): x}


def _child(parent: nn.Module, names: Sequence[str]) -> nn.Module | None:
    found = (getattr(parent, name, None) for name in names)
    return next((child for child in found if isinstance(child, nn.Module)), None)


def _require(found: nn.Module | None, parent: nn.Module, hook_name: str) -> nn.Module:
    if found is None:
        raise ModelError(f"{hook_name} cannot be found in {type(parent).__name__}: pass a TransformerBridge")
    return found


def require_ran(caught: Mapping[str, Tensor], hook_names: Sequence[str]) -> None:
    """Raise ModelError when a hook gave nothing: some are listed by a TransformerBridge and never called."""
    for name in hook_names:
        if name not in caught:
            raise ModelError(
                f"the hook {name} never ran in this model: use an SAE of another hook, such as hook_resid_post"
            )


def require_finite(x: Tensor, hook_name: str) -> None:
    """Raise ModelError when activations that count overflowed."""
    if not x.isfinite().all():
        kind = str(x.dtype).removeprefix("torch.")
        others = " or ".join(name for name in ("bfloat16", "float32") if name != kind)
        remedy = "the model is damaged, or another one" if kind == "float32" else f"use {others}"
        raise ModelError(f"activations at {hook_name} are not finite in {kind}: {remedy}")


BATCH_SIZE = 32


def hook_activations(
    model: LoadedModel, texts: Sequence[str], hook_names: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Per batch of texts: hook name -> the activation there [batch, token, ...], and which tokens count [batch, token]."""
    device = next(model.transformer.parameters()).device
    special = torch.tensor(sorted(special_ids(model.tokenizer)))
    for start in range(0, len(texts), BATCH_SIZE):
        batch, mask = pad_rows(model.tokenizer, model.rows(texts[start : start + BATCH_SIZE]), device)
        caught = catch_activations(model.transformer, batch, mask, hook_names)
        yield caught, mask & ~torch.isin(batch, special.to(batch.device))


class _EveryHookRan(Exception):
    """What else a forward pass would compute is not needed."""


def catch_activations(model: Any, batch: Tensor, mask: Tensor, hook_names: Sequence[str]) -> dict[str, Tensor]:
    """The activations at some hooks in one forward pass, which ends at the last of them: hook name -> [batch, token, ...].

    Raises:
        ModelError: a hook never ran, or its activation is not finite.
    """
    whole = any(hasattr(module, "_hf_hook") for module in model.modules())  # what moves weights about must end its work

    def stop(caught: Mapping[str, Tensor]) -> None:
        if not whole and caught.keys() >= set(hook_names):
            raise _EveryHookRan

    with torch.no_grad(), catching(model, hook_names, after_each=stop) as caught, suppress(_EveryHookRan):
        model(batch, attention_mask=mask.long(), use_cache=False)
    require_ran(caught, hook_names)
    for name, x in caught.items():
        require_finite(x[mask], name)
    return caught
