"""Steering methods: how the code of one token is edited (method: section 4).

A method is one function and one entry in METHODS. It takes the SAE's codec, the activation x [..., *site], the target
(the stored scores) and the options, and gives the edited code with the encoding it came from; methods without a code
give the new activation instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from atlas.codec import Code, Codec
from atlas.errors import AtlasError, UnknownName

SIGMAS = {
    "own": "the SAE's own selection",
    "topk": "as many neurons as the token has active, chosen by score * pre-activation / threshold",
}


@dataclass(frozen=True)
class Target:
    """What the store says of an SAE's neurons under a scoring.

    Attributes:
        scores: in [0, 1] [d_sae]; 0 where the store has NULL.
        max_activation: largest reference activation per neuron [d_sae].
        best: the neurons that have a score, best first.
    """

    scores: Tensor
    max_activation: Tensor
    best: Tensor


@dataclass(frozen=True)
class Options:
    """Settings of a steering method.

    Attributes:
        strength: the method's own unit (see METHODS); None for its default.
        neurons: how many of the best neurons clamp and add use; None for the method's default.
        sigma: key of SIGMAS, for swap and weight.
    """

    strength: float | None = None
    neurons: int | None = None
    sigma: str = "own"


@dataclass(frozen=True)
class Edit:
    """The edited code a' [..., d_sae] and the encoding it came from, or the new activation of a method without a code."""

    acts: Tensor | None = None
    code: Code | None = None
    activation: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """An entry of METHODS.

    Attributes:
        edit: the function; None leaves the activation as it is.
        strength: default strength; None when the method has none.
        neurons: default number of best neurons; None when the method uses all.
        has_sigma: whether the selection can be replaced.
        has_code: whether it edits the code and then decodes.
        help: what it does, in a line.
    """

    edit: Callable[[Codec, Tensor, Target, Options], Edit] | None
    help: str
    strength: float | None = None
    neurons: int | None = None
    has_sigma: bool = False
    has_code: bool = True


def sae(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = a."""
    code = codec.encode(x)
    return Edit(code.acts, code)


def clamp(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = strength · largest reference activation (Templeton et al.)."""
    code = codec.encode(x)
    best = target.best[: options.neurons]
    return Edit(_assign(code.acts, best, _strength(options) * target.max_activation[best].to(code.acts)), code)


def clamp_own(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = strength · a[best] (the paper's words; nothing happens where they are silent)."""
    code = codec.encode(x)
    best = target.best[: options.neurons]
    return Edit(_assign(code.acts, best, _strength(options) * code.acts[..., best]), code)


def clamp_plus(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = a[best] + strength (the released code)."""
    code = codec.encode(x)
    best = target.best[: options.neurons]
    return Edit(_assign(code.acts, best, code.acts[..., best] + _strength(options)), code)


def weight(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = σ(γ ⊙ score)."""
    weights = target.scores.to(x.device)
    code = codec.encode(x)
    if options.sigma == "topk":
        return Edit(_own_count(codec, code, weights) * code.pre * weights, code)
    return Edit(codec.encode(x, weights.to(code.acts)).acts, code)


def swap(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = 1[σ(γ ⊙ score) ≠ 0] ⊙ γ: the choice of neurons follows the scores, their values stay the token's own."""
    weights = target.scores.to(x.device)
    code = codec.encode(x)
    if options.sigma == "topk":
        return Edit(_own_count(codec, code, weights) * code.pre, code)
    chosen = codec.encode(x, weights.to(code.acts)).acts != 0
    return Edit(chosen * code.pre, code)


def add(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """x' = x + strength · s(x) · Σ over the best of m_i D_i, m_i the largest reference activation; exactly x at 0."""
    if options.strength == 0:
        return Edit(activation=x)
    best = target.best[: options.neurons]
    rows = codec.decoder_rows[best]
    step = _strength(options) * (target.max_activation[best].to(rows) @ rows)
    return Edit(activation=codec.add(x, step, codec.input_scale(x)))


METHODS = {
    "original": Method(None, "the model as it is", has_code=False),
    "sae": Method(sae, "reconstruction by the SAE, nothing changed"),
    "clamp": Method(clamp, "best neurons set to strength x their largest reference activation", 10.0, 5),
    "clamp-own": Method(clamp_own, "best neurons set to strength x their own activation", 10.0, 5),
    "clamp-plus": Method(clamp_plus, "best neurons raised by strength", 10.0, 5),
    "weight": Method(weight, "activations selected and weighed by score", has_sigma=True),
    "swap": Method(
        swap, "neurons chosen by score x pre-activation, values kept (the paper's proposal)", has_sigma=True
    ),
    "add": Method(
        add, "best neurons' decoder rows added, strength x their largest reference activation", 1.0, 5, has_code=False
    ),
}


def takes(name: str, option: str) -> bool:
    """Whether a method has an option (a field of Options)."""
    method = METHODS[name]
    return {"strength": method.strength, "neurons": method.neurons, "sigma": method.has_sigma or None}[
        option
    ] is not None


def settle_options(name: str, options: Options) -> Options:
    """Options with the method's defaults filled in; AtlasError for one the method does not have."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    if options.sigma not in SIGMAS:
        raise UnknownName("sigma", options.sigma, SIGMAS)
    method = METHODS[name]
    for option, value in asdict(options).items():
        if value not in (None, "own") and not takes(name, option):
            raise AtlasError(f"method {name} has no {option}: leave it out, or use another method")
    if options.neurons is not None and options.neurons < 0:
        raise AtlasError(f"number of neurons {options.neurons} is negative: give 0 or more")
    return Options(
        method.strength if options.strength is None else options.strength,
        method.neurons if options.neurons is None else options.neurons,
        options.sigma,
    )


def _strength(options: Options) -> float:
    assert options.strength is not None, "settle_options fills it in"
    return options.strength


def _assign(acts: Tensor, neurons: Tensor, values: Tensor) -> Tensor:
    edited = acts.clone()
    edited[..., neurons] = values.to(acts.dtype)
    return edited


def _own_count(codec: Codec, code: Code, weights: Tensor) -> Tensor:
    """The token's own number of neurons, chosen by score · γ / θ: a mask [..., d_sae] in the code's number format."""
    magnitude = code.pre.abs() if codec.signed else code.pre.clamp(min=0)
    wish = magnitude * weights.to(code.pre) / codec.threshold
    counts = (code.acts != 0).sum(dim=-1, keepdim=True)
    most = int(counts.max())
    best = wish.topk(most, dim=-1)
    keep = (torch.arange(most, device=wish.device) < counts) & (best.values > 0)
    return torch.zeros_like(wish).scatter_(-1, best.indices, keep.to(wish.dtype))
