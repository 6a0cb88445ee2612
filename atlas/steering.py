"""Steer a model while a `with` block lasts: hooks at the SAEs' sites, and the figures of what they did.

Works on a TransformerLens TransformerBridge and on a plain Hugging Face model, with any generation code that calls the
model, with and without a KV cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atlas.codec import Code, Codec
from atlas.errors import AtlasError, UnknownName
from atlas.methods import DEFAULT_METHOD, METHODS, Edit, Options, Target, settle_options
from atlas.sites import find_site

POSITIONS = {
    "all": "prompt and generated tokens",
    "prompt": "tokens of the prompt",
    "generated": "generated tokens",
}
WAITING = 1 << 19  # values of codes that wait for their figures


@dataclass(frozen=True)
class Layer:
    """An SAE at its hook, and the scores to steer it by.

    Attributes:
        hook_name: TransformerLens name of the hook.
        codec: the SAE.
        target: what it is steered by.
        ruler: the topic's scores, that contamination is measured by [d_sae]; None for the target's own. What steers may
            be something else: a selection rule's values, or a control's shuffled scores.
    """

    hook_name: str
    codec: Codec
    target: Target
    ruler: Tensor | None = None

    @cached_property
    def impurity(self) -> Tensor:
        """1 - score per neuron, by the ruler [d_sae]."""
        return 1 - (self.target.scores if self.ruler is None else self.ruler)


def check_positions(positions: str) -> None:
    """Raise UnknownName unless `positions` is a key of POSITIONS."""
    if positions not in POSITIONS:
        raise UnknownName("positions", positions, POSITIONS)


class Steering:
    """A context manager that steers `model` and removes every hook on exit.

    It is entered once at a time, and may be entered again afterwards; several contexts may steer a model at once, each on
    top of the others. The hooks are the model's and not the thread's: whoever calls the model meanwhile is steered too, so
    threads that steer differently need a model each, or take turns.

    Args:
        model: a TransformerBridge or a Hugging Face causal model.
        layers: the SAEs, each with its scores.
        method: key of METHODS.
        options: strength, number of neurons, sigma; None where the method's default is meant.
        keep_error: for methods that decode: x' = x + s(x) · (a' - a) · D instead of x' = decode(a').
        positions: key of POSITIONS.
        special_ids: token ids that are never steered.

    Attributes:
        saw_embeddings: whether a call came with embeddings instead of token ids, so that every position was steered.

    Raises:
        AtlasError: it is entered while it steers already.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        *,
        method: str = DEFAULT_METHOD,
        options: Options = Options(),
        keep_error: bool = False,
        positions: str = "all",
        special_ids: Sequence[int] = (),
    ) -> None:
        check_positions(positions)
        self.model = model
        self.layers = list(layers)
        self.method = method
        self.options = settle_options(method, options)
        self.keep_error = keep_error
        vector = METHODS[method].vector
        for layer in self.layers if vector else []:
            given = getattr(layer.target, str(vector))
            if given is None:
                raise AtlasError(f"method {method} steers by a contrastive vector: name one with --vector")
            if not given.any():
                raise AtlasError(
                    f"the vector has no entry for method {method} at {layer.hook_name}: make it with a lower --tau, "
                    "or use method dense"
                )
        self.positions = positions
        self.saw_embeddings = False
        self._special = frozenset(special_ids)
        self._handles: list[RemovableHandle] = []
        self._tokens = _TokenTracker()
        self._figures = [_Figures(layer) for layer in self.layers]

    def __enter__(self) -> Self:
        if self._handles:
            raise AtlasError("this steering is entered already: leave it first, or make another one with `steer`")
        inner = getattr(self.model, "original_model", self.model)
        self._parameters = list(inspect.signature(inner.forward).parameters)
        try:
            self._handles.append(inner.register_forward_pre_hook(self._before, with_kwargs=True))
            for layer, figures in zip(self.layers, self._figures, strict=True):
                site = find_site(self.model, layer.hook_name)
                self._handles.append(site.edit(lambda x, layer=layer, figures=figures: self._edit(x, layer, figures)))  # type: ignore[misc]
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._remove()

    def contamination(self) -> list[float | None]:
        """Per sequence: the mean over its tokens of Σ|a'|(1 - score) / Σ|a'|, in [0, 1], lower is purer.

        With several SAEs, their mean. None for a sequence without a token that counts. Since the last prompt was given.
        """
        per_layer = [figures.contamination() for figures in self._figures]
        result: list[float | None] = []
        for values in zip(*per_layer, strict=True):
            known = [value for value in values if value is not None]
            result.append(sum(known) / len(known) if known else None)
        return result

    def swapped(self) -> list[dict[str, float]]:
        """Per sequence: neurons per token that were active and stay so ("kept"), or not ("dropped"), and "new" ones."""
        counts = [figures.swapped() for figures in self._figures]
        return [
            {name: sum(float(row[i]) for row in rows) / len(rows) for i, name in enumerate(("kept", "new", "dropped"))}
            for rows in zip(*counts, strict=True)
        ]

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        ids = given.get("input_ids")
        if ids is None:
            self.saw_embeddings = True
        restarted = self._tokens.see(ids, _cached_tokens(given))
        if restarted:
            for figures in self._figures:
                figures.clear()

    def _where(self, shape: tuple[int, int], device: torch.device) -> Tensor | None:
        """Which tokens of this call are steered [batch, token]; None for all of them."""
        tokens, ids = self._tokens, self._tokens.ids
        rows = ids.tolist() if ids is not None and ids.shape == shape else [[None] * shape[1]] * shape[0]
        places = range(tokens.offset, tokens.offset + shape[1])
        meant = [self.positions == "all" or (p < tokens.prompt_length) == (self.positions == "prompt") for p in places]
        mask = [[ok and i not in self._special for i, ok in zip(row, meant, strict=True)] for row in rows]
        return None if all(map(all, mask)) else torch.tensor(mask, device=device)

    @torch.no_grad()
    def _edit(self, x: Tensor, layer: Layer, figures: _Figures) -> Tensor:
        method, codec, target = METHODS[self.method], layer.codec, layer.target
        mask = self._where((x.shape[0], x.shape[1]), x.device)
        edit = method.edit(codec, x, target, self.options) if method.edit else Edit(activation=x)
        if edit.activation is not None:
            out = _mix(edit.activation, x, mask)
            figures.add_activation(out, mask)
        else:
            assert edit.acts is not None and edit.code is not None
            code, acts = codec.narrow(edit.acts, edit.code)
            out = _mix(codec.shift(x, code, acts) if self.keep_error else codec.decode(acts, code, x), x, mask)
            figures.add_code(acts, code, mask)
        return out


def _cached_tokens(arguments: dict[str, Any]) -> int:
    """How many tokens a call's KV cache holds, 0 without one.

    The cache is known by what it can do: Transformers has called the argument past_key_values, cache_params and cache.
    """
    caches = [value for value in arguments.values() if hasattr(value, "get_seq_length")]
    return int(caches[0].get_seq_length()) if caches else 0


def _mix(moved: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """`moved` where mask [batch, token] says so, x elsewhere."""
    return moved if mask is None else torch.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), moved, x)


class _TokenTracker:
    """Where in the text a forward call stands, whether or not a KV cache is on."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None
        self.offset = 0
        self.prompt_length = 0
        self._previous: Tensor | None = None

    def see(self, ids: Tensor | None, offset: int) -> bool:
        """Take in a call; whether figures start afresh: a new prompt, or the whole text once more without a cache."""
        self.ids, self.offset = ids, offset
        if offset > 0:
            return False
        before, self._previous = self._previous, ids
        goes_on = (
            ids is not None
            and before is not None
            and ids.shape[0] == before.shape[0]
            and ids.shape[1] == before.shape[1] + 1
            and bool((ids[:, :-1] == before).all())
        )
        if not goes_on:
            self.prompt_length = ids.shape[1] if ids is not None else 1 << 60
        return True


class _Figures:
    """The figures of each sequence. What they come from waits until one is asked for, or until there is much of it."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.clear()

    def clear(self) -> None:
        self._codes: list[tuple[Tensor, Code, Tensor]] = []
        self._activations: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self._calls: list[list[Tensor]] = []

    def add_code(self, acts: Tensor, code: Code, mask: Tensor | None) -> None:
        """Take in a call: an edited code, the one it came from, and which tokens count [batch, token], None for all."""
        self._codes.append((acts, code, _whole(acts) if mask is None else mask))
        self._wait(acts.numel())

    def add_activation(self, x: Tensor, mask: Tensor | None) -> None:
        """Take in a call of a method without a code: its activation [batch, token, *site], encoded later, many at once."""
        self._activations.append((x.clone(), _whole(x) if mask is None else mask))
        self._wait(x.shape[0] * x.shape[1] * self._layer.codec.d_sae)

    def _wait(self, values: int) -> None:
        self._values += values
        if self._values > WAITING:
            self._reduce()

    def _reduce(self) -> None:
        if self._activations:
            x, mask = (torch.cat(parts, dim=1) for parts in zip(*self._activations, strict=True))
            code = self._layer.codec.encode(x)
            self._codes.append((code.acts, code, mask))
        for acts, code, mask in self._codes:
            size, now, was = acts.abs(), acts.bool(), code.acts.bool()
            impure = size @ code.pick(self._layer.impurity.to(size))
            columns = (mask, impure, size.sum(-1), (was & now).sum(-1), now.sum(-1), was.sum(-1))
            self._calls.append([column.double().cpu() for column in columns])
        self._codes, self._activations, self._values = [], [], 0

    def contamination(self) -> list[float | None]:
        mask, impure, total, *_ = self._columns()
        known = mask * (total > 0)
        sums = (known * impure / total.clamp(min=1e-30)).sum(1), known.sum(1)
        return [share / n if n else None for share, n in torch.stack(sums, dim=1).tolist()]

    def swapped(self) -> list[list[float]]:
        mask, _, _, kept, now, was = self._columns()
        sums = (mask * torch.stack([kept, now - kept, was - kept])).sum(-1)
        return (sums / mask.sum(-1).clamp(min=1)).T.tolist()

    def _columns(self) -> list[Tensor]:
        """What `add` kept, over all tokens, each [batch, token]."""
        self._reduce()
        return [torch.cat(parts, dim=1) for parts in zip(*self._calls, strict=True)] or [torch.zeros(0, 1)] * 6


def _whole(x: Tensor) -> Tensor:
    """A mask [batch, token] of all tokens of x [batch, token, ...]."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
