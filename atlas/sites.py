"""Find the place a TransformerLens hook name means, in a TransformerBridge or in a plain Hugging Face model.

A site is a module and a side of it: its input or its output is the activation. On a bridge every hook is a module of
its own; on a plain model the residual stream, the outputs of attention and MLP, and the joined heads can be found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atlas.errors import ModelError

ATTENTION = ("attn", "self_attn", "attention", "self_attention")
PROJECTION = ("c_proj", "o_proj", "out_proj", "dense", "wo")
LAST_NORM = {  # of what attention and MLP give, in models that norm it before adding it to the residual stream
    "hook_attn_out": ("post_self_attn_layernorm", "post_attention_layernorm"),
    "hook_mlp_out": ("post_feedforward_layernorm", "post_mlp_layernorm"),
}
PATTERN = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_resid_post|hook_attn_out|hook_mlp_out|attn\.hook_z)")


@dataclass(frozen=True)
class Site:
    """A place in a model.

    Attributes:
        module: the module whose input or output the activation is.
        reads_input: whether it is the input.
        heads: number of heads to split the last dimension into, 0 to leave it.
        conversion: what a TransformerBridge does to the module's output before a hook sees it, and takes back after.
    """

    module: nn.Module
    reads_input: bool = False
    heads: int = 0
    conversion: Any = None

    def edit(self, function: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Pass the activation through `function` at every forward call, until the handle is removed."""

        def change(x: Tensor) -> Tensor:
            if self.conversion is not None:
                return self.conversion.revert(function(self.conversion.convert(x)))
            return function(x.unflatten(-1, (self.heads, -1))).flatten(-2) if self.heads else function(x)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        if self.reads_input:
            return self.module.register_forward_pre_hook(before, with_kwargs=True)
        return self.module.register_forward_hook(after)


@contextmanager
def catching(model: nn.Module, hook_names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Fill a dict, hook name -> activation, at every forward call of the model while the block lasts."""
    caught: dict[str, Tensor] = {}

    def catch(name: str, x: Tensor) -> Tensor:
        caught[name] = x.detach()
        return x

    handles: list[RemovableHandle] = []
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
    if place in LAST_NORM and hasattr(block, "pre_feedforward_layernorm"):
        return Site(_child(block, LAST_NORM[place], hook_name))
    if place == "hook_mlp_out":
        return Site(_child(block, ("mlp", "feed_forward", "fc2"), hook_name))
    attention = _child(block, ATTENTION, hook_name)
    if place == "hook_attn_out":
        return Site(attention)
    config: Any = model.config
    inner = next((m for m in attention.children() if hasattr(m, PROJECTION[0]) or hasattr(m, PROJECTION[2])), attention)
    return Site(_child(inner, PROJECTION, hook_name), reads_input=True, heads=config.num_attention_heads)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of a Hugging Face model's layers; ModelError when there is none."""
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"no list of {count} layers in {type(model).__name__}: pass a TransformerBridge")


def _child(parent: nn.Module, names: tuple[str, ...], hook_name: str) -> nn.Module:
    for name in names:
        found = getattr(parent, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ModelError(f"{hook_name} cannot be found in {type(parent).__name__}: pass a TransformerBridge")
