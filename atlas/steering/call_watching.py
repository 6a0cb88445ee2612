"""Watch a model while a `with` block lasts: every forward call, and every call of `generate`.

Forward calls are seen by hooks; `generate` and `prepare_inputs_for_generation` by a function put before each on this one
model, which says how long the prompt is, what its mask is and which beam goes on with which, and is taken away at the end.
Compiled models run uncompiled meanwhile: compiled code does not run hooks that came after it, and keeps those it was
compiled with.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import AtlasError
from atlas.steering.token_records import Call, Run
from atlas.steering.token_tracking import PACKED, TokenTracker


def find_language_model(model: nn.Module) -> nn.Module:
    """The Hugging Face model in a TransformerBridge, a compiled model or another wrapper; the model itself without one."""
    inner = getattr(model, "original_model", model)
    return next((module for module in inner.modules() if hasattr(type(module), "base_model_prefix")), inner)


def bare_model(model: nn.Module) -> nn.Module:
    """The TransformerBridge or Hugging Face model in a compiled or otherwise wrapped one."""
    while isinstance(before := vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):
        model = before
    return model if hasattr(model, "hook_dict") else find_language_model(model)


def uncompiled() -> AbstractContextManager[Any]:
    """Compiled models run uncompiled while it lasts."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """While it lasts the model runs uncompiled and without dropout, and what is loaded may be asked for gradients later."""
    training = [module for module in model.modules() if module.training]
    try:
        with torch.inference_mode(False), uncompiled():
            model.eval()
            yield
    finally:
        for module in training:
            module.training = True


class ModelWatch:
    """Tells a TokenTracker of every forward call and every `generate` of a model, between `start` and `stop`.

    Attributes:
        call: what is known of the forward call that is running; None between calls.
        calls: forward calls since `start` that did not fail.
        attempts: all of them, those that were refused too.
        ended: called after each forward call that did not fail.
    """

    def __init__(self, model: nn.Module, tracker: TokenTracker, ended: Callable[[Call], None]) -> None:
        self._model, self._inner, self._tracker, self.ended = model, find_language_model(model), tracker, ended
        self.call: Call | None = None
        self.calls = self.attempts = 0
        self._stack: ExitStack | None = None
        self._open: nn.Module | None = None

    @property
    def is_on(self) -> bool:
        """Whether it is between `start` and `stop`."""
        return self._stack is not None

    def start(self) -> None:
        """Watch the model from now on."""
        self.calls = self.attempts = 0
        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            # some wrappers run the forward method itself, which no hook of the whole model sees
            base = getattr(self._inner, "base_model", self._inner)
            for module in dict.fromkeys((self._inner, base)):
                names = list(inspect.signature(type(module).forward).parameters)[1:]
                before = functools.partial(self._before, watched=module, names=names)
                after = functools.partial(self._after, watched=module)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
            for module in dict.fromkeys((self._model, self._inner)):
                if "generate" in dir(type(module)):
                    stack.callback(_put_before(module, "generate", self._generate))
            for name in ("generate_batch", "init_continuous_batching"):  # would put what we refuse into a log
                if name in dir(type(self._inner)):
                    stack.callback(_put_before(self._inner, name, _refuse_packing))
            if "prepare_inputs_for_generation" in dir(type(self._inner)):
                stack.callback(_put_before(self._inner, "prepare_inputs_for_generation", self._prepare))
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Leave the model as it was."""
        if self._stack is not None:
            self._stack.close()
        self._stack = self._open = self.call = None

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, watched: nn.Module, names: list[str]
    ) -> None:
        if module is not watched:
            raise AtlasError("a copy of the model was called (DataParallel makes them): steer and call one model")
        if watched is not self._inner and self._open is not None:
            return  # a part of the call that is running
        self._open, self.call = watched, None
        self.attempts += 1
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self.call = self._tracker.see(given, self._embed)

    def _embed(self, ids: Tensor) -> Tensor:
        table: Any = self._inner.get_input_embeddings()  # type: ignore[operator]
        with torch.no_grad():
            return table(ids[ids < table.weight.shape[0]])

    def _after(self, module: nn.Module, args: Any, output: Any, *, watched: nn.Module) -> None:
        if watched is not self._open:
            return
        call, self._open, self.call = self.call, None, None
        if output is None or call is None:  # it failed
            return
        self.calls += 1
        self._tracker.link(call, output)
        self.ended(call)

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        run, pad = _describe_run(self._inner, original, args, kwargs)
        self._tracker.start_run(run)
        sequences, done = None, False
        try:
            output = original(*args, **kwargs)
            sequences, done = getattr(output, "sequences", output), True
            return output
        finally:
            sequences = sequences if done and isinstance(sequences, Tensor) and sequences.ndim == 2 else None
            self._tracker.end_run(run, sequences=sequences, stopped=pad)

    def _prepare(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._tracker.run is not None:
            ids = args[0] if args else kwargs.get("input_ids")
            self._tracker.run.tell(ids, kwargs.get("attention_mask"))
        return original(*args, **kwargs)


def _refuse_packing(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    raise AtlasError(PACKED)


def _put_before(module: nn.Module, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let `function(original, ...)` be called instead of a method of one module; what is given back undoes it."""
    known, original = module.__dict__.get(name), getattr(module, name)
    active = True

    @functools.wraps(original)
    def instead(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs) if active else original(*args, **kwargs)

    def undo() -> None:
        nonlocal active
        active = False  # where another has been put before it meanwhile, it stays and does nothing
        if module.__dict__.get(name) is instead:
            del module.__dict__[name]
            if known is not None:
                module.__dict__[name] = known

    module.__dict__[name] = instead
    return undo


def _describe_run(
    model: nn.Module, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Run, int | None]:
    """What a call of `generate` is given; and the pad id, where rows may end by something else than by an EOS token."""
    names = list(inspect.signature(original).parameters)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    ids = next((given[name] for name in ("inputs", "input", "input_ids") if isinstance(given.get(name), Tensor)), None)
    embeddings, mask = given.get("inputs_embeds"), given.get("attention_mask")
    if ids is not None and ids.is_floating_point():
        ids, embeddings = None, ids
    shown = ids if embeddings is None else embeddings
    configs = [given.get("generation_config"), getattr(model, "generation_config", None)]

    def setting(name: str) -> Any:
        values = [given.get(name), *(getattr(config, name, None) for config in configs)]
        return next((value for value in values if value is not None), None)

    stops = () if given.get("stop_at_eos") is False else token_ids(setting("eos_token_id"))
    ends_otherwise = stops and any(
        setting(name) for name in ("stop_strings", "stopping_criteria")
    )  # else none is padded
    pad = next(iter((*token_ids(setting("pad_token_id")), *stops))) if ends_otherwise else None
    if shown is None:
        return Run(None if "input" in given else 1, None, stops=stops), pad
    longest = mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else 0
    lead = 0 if ids is None else int(ids.shape[1])
    return Run(int(shown.shape[0]), max(int(shown.shape[1]), longest), lead, stops), pad


def token_ids(value: Any) -> tuple[int, ...]:
    """Token ids that a setting holds, as one, a list or a tensor."""
    if value is None:
        return ()
    return tuple(int(one) for one in torch.as_tensor(value).flatten())
