"""Steering methods: what each does to the feature activations of one token (method: sections 4 and 5).

A method is one function and one entry in METHODS. It takes the SAE's codec, the activation x [..., *site], the target
(the stored scores and vectors) and the options, and gives an EditedCode, which is decoded, or a MovedActivation, which
takes the place of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from atlas.errors import AtlasError, UnknownName
from atlas.models.codec import Code, Codec
from atlas.steering.settings import Options


@dataclass(frozen=True)
class Target:
    """What the store says of an SAE's neurons under a scoring, and the vectors to steer by.

    Attributes:
        scores: in [0, 1] [d_sae]; 0 where the store has NULL.
        max_activation: largest reference activation per neuron [d_sae].
        best: the neurons that have a score, best first.
        vectors: contrastive vectors, or the sums of several, by kind: "sas", sparse over the neurons [d_sae]; "dense",
            mean difference of the activations [d_in]; "difference", that of the codes [d_sae]. Empty where none was
            asked for.
        most: how many of the best may steer: as many as were chosen by their numbers. None for any.
    """

    scores: Tensor
    max_activation: Tensor
    best: Tensor
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    most: int | None = None

    def first(self, count: int | None) -> Tensor:
        """So many of the best neurons, None for all, as far as they may steer."""
        return self.best[: self.most][:count]

    def vector(self, kind: str) -> Tensor:
        """The vector of a kind; AtlasError where no vector was asked for."""
        if kind not in self.vectors:
            raise AtlasError(f"there is no contrastive vector of kind {kind} to steer by: name one with --vector")
        return self.vectors[kind]

    def with_vectors(self, **vectors: Tensor) -> Target:
        """The same with other vectors, by kind; those that are not named stay."""
        return replace(self, vectors={**self.vectors, **vectors})


@dataclass(frozen=True)
class EditedCode:
    """What a method makes that edits feature activations, which are then decoded.

    Attributes:
        acts: the edited feature activations a' [..., d_sae], or [..., m] where the code holds m neurons only.
        code: the encoding that they were made from.
    """

    acts: Tensor
    code: Code


@dataclass(frozen=True)
class MovedActivation:
    """What a method makes that adds to the activation itself.

    Attributes:
        activation: the new activation [..., *site].
    """

    activation: Tensor


Edit = EditedCode | MovedActivation


@dataclass(frozen=True)
class Method:
    """An entry of METHODS.

    Attributes:
        edit: the function; None leaves the activation as it is.
        strength: default strength; None when the method has none.
        fitted: whether the default strength is fitted to the model, beginning at `strength` (see default_strength).
        neurons: default number of best neurons; None when the method uses all.
        sigmas: keys of SIGMAS that it can select by; empty when it has no selection.
        has_code: whether it edits the code and then decodes.
        vector: the kind of contrastive vector that it steers by (see Target); None where it steers by none.
        weighs: whether, steering by a vector, it weighs the neurons by a topic's scores where there is a topic.
        help: what it does, in a line.
    """

    edit: Callable[[Codec, Tensor, Target, Options], Edit] | None
    help: str
    strength: float | None = None
    neurons: int | None = None
    sigmas: tuple[str, ...] = ()
    has_code: bool = True
    vector: str | None = None
    weighs: bool = False
    fitted: bool = False

    @property
    def needs_scores(self) -> bool:
        """Whether it steers by a topic's scores and by nothing else."""
        return self.edit not in (None, sae) and self.vector is None


def sae(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = a."""
    code = codec.encode(x)
    return EditedCode(code.acts, code)


def clamp(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = strength · largest reference activation (Templeton et al.)."""
    code = codec.encode(x)
    best = target.first(options.neurons)
    return EditedCode(_assign(code.acts, best, _strength(options) * target.max_activation[best].to(code.acts)), code)


def clamp_own(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = strength · a[best] (the paper's words; nothing happens where they are silent)."""
    code = codec.encode(x)
    best = target.first(options.neurons)
    return EditedCode(_assign(code.acts, best, _strength(options) * code.acts[..., best]), code)


def clamp_plus(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a'[best] = a[best] + strength (the released code)."""
    code = codec.encode(x)
    best = target.first(options.neurons)
    return EditedCode(_assign(code.acts, best, code.acts[..., best] + _strength(options)), code)


def weight(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = σ(γ ⊙ score)."""
    weights = target.scores.to(x.device)
    if options.sigma == "topk":
        code = codec.encode(x)
        return EditedCode(_own_count(codec, code, weights) * code.pre * weights, code)
    code, weighed = codec.encode_twice(x, weights.to(codec.decoder_rows))
    return EditedCode(weighed, code)


def swap(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = 1[σ(γ ⊙ score) ≠ 0] ⊙ γ: the choice of neurons follows the scores, their values stay the token's own."""
    weights = target.scores.to(x.device)
    if options.sigma == "topk":
        code = codec.encode(x)
        return EditedCode(_own_count(codec, code, weights) * code.pre, code)
    code, weighed = codec.encode_twice(x, weights.to(codec.decoder_rows))
    return EditedCode((weighed != 0) * code.pre, code)


def add(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """x' = x + strength · s(x) · Σ over the best of m_i D_i, m_i the largest reference activation; exactly x at 0."""
    if options.strength == 0:
        return MovedActivation(x)
    best = target.first(options.neurons)
    rows = codec.decoder_rows[best]
    step = _strength(options) * (target.max_activation[best].to(rows) @ rows)
    return MovedActivation(codec.add(x, step, codec.input_scale(x)))


def sas(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """a' = σ(a + λ v); with the error kept x' = x + s(x) · (a' - a) · D (arXiv 2503.00177); exactly x at λ = 0."""
    if options.strength == 0:
        return MovedActivation(x)
    code = codec.encode(x)
    moved = code.acts + _strength(options) * target.vector("sas").to(code.acts)
    if options.sigma == "relu":
        if codec.signed:
            raise AtlasError("sigma relu would drop the negative activations of an AbsTopK SAE: use own or none")
        moved = moved.relu()
    return EditedCode(codec.select(moved) if options.sigma == "own" else moved, code)


def dense(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """x' = x + λ · mean over pairs of (x⁺ - x⁻) (CAA, arXiv 2312.06681)."""
    step = target.vector("dense").to(x.device)
    return MovedActivation(x if options.strength == 0 else codec.add(x, _strength(options) * step, 1.0))


def filtered(codec: Codec, x: Tensor, target: Target, options: Options) -> Edit:
    """x' = x + λ · s(x) · Σ over neurons of score_i d_i D_i, d the mean over pairs of (a⁺ - a⁻).

    The dense vector as the SAE reads it, with neurons off the topic muted, after Conmy and Nanda's report on activation
    steering with SAEs (2024), which encodes the vector itself. Here the two sides are encoded instead and then subtracted:
    a difference lies outside what an encoder was trained on, and a code of it cannot be negative (arXiv 2411.08790). By
    x⁺ - x⁻ = s · (a⁺ - a⁻) · D + (e⁺ - e⁻) this is the dense vector less its reconstruction error when all scores are 1.
    """
    if options.strength == 0:
        return MovedActivation(x)
    rows = codec.decoder_rows
    step = _strength(options) * ((target.vector("difference") * target.scores).to(rows) @ rows)
    return MovedActivation(codec.add(x, step, codec.input_scale(x)))


METHODS = {
    "original": Method(None, "the model as it is", has_code=False),
    "sae": Method(sae, "reconstruction by the SAE, nothing changed"),
    "clamp": Method(clamp, "best neurons set to strength x their largest reference activation", 10.0, 5),
    "clamp-own": Method(clamp_own, "best neurons set to strength x their own activation", 10.0, 5),
    "clamp-plus": Method(clamp_plus, "best neurons raised by strength", 10.0, 5),
    "weight": Method(weight, "activations selected and weighed by score", sigmas=("own", "topk")),
    "swap": Method(
        swap, "neurons chosen by score x pre-activation, values kept (the paper's proposal)", sigmas=("own", "topk")
    ),
    "add": Method(
        add,
        "best neurons' decoder rows added, strength x their largest reference activation",
        0.1,
        60,
        has_code=False,
        fitted=True,
    ),
    "sas": Method(
        sas,
        "strength x a contrastive sparse vector added to the code, which is then selected again (SAS)",
        1.0,
        sigmas=("own", "relu", "none"),
        vector="sas",
    ),
    "dense": Method(dense, "strength x a contrastive dense vector added (CAA)", 1.0, has_code=False, vector="dense"),
    "filtered": Method(
        filtered,
        "the dense vector as the SAE reads it, neurons weighed by score, added",
        1.0,
        has_code=False,
        vector="difference",
        weighs=True,
    ),
}
DEFAULT_METHOD = "add"  # set by evaluation on the bundled model, see atlas/evaluation/README.md


def takes(name: str, option: str, value: object = None) -> bool:
    """Whether a method uses an option, a field of Options; for option "sigma" also whether it can select by `value`."""
    method = METHODS[name]
    if option == "sigma":
        return bool(method.sigmas) and (value in (None, "sae") or value in method.sigmas)
    return {"strength": method.strength, "neurons": method.neurons}[option] is not None


def spread_options(given: Options, methods: Sequence[str]) -> dict[str, Options]:
    """What each of some methods takes of the options given for all; AtlasError for an option that none of them takes."""
    for name in methods:
        settle_options(name, Options())  # says which names are unknown
    if len(methods) < 2:
        return dict.fromkeys(methods, given)  # settle_options says what it lacks
    for option, value in asdict(given).items():
        if value not in (None, "own", "sae") and not any(takes(name, option, value) for name in methods):
            raise AtlasError(f"none of the methods {', '.join(methods)} has {option}: leave it out")
    return {
        name: Options(**{option: value for option, value in asdict(given).items() if takes(name, option, value)})
        for name in methods
    }


def settle_options(name: str, options: Options) -> Options:
    """Options with the method's defaults filled in; AtlasError for one the method does not have."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    method = METHODS[name]
    sigma = "own" if options.sigma == "sae" else options.sigma
    for option, value in asdict(options).items():
        if value not in (None, "own", "sae") and not takes(name, option):
            raise AtlasError(f"method {name} has no {option}: leave it out, or use another method")
    if sigma != "own" and sigma not in method.sigmas:
        raise UnknownName(f"sigma of method {name}", sigma, method.sigmas)
    return Options(
        method.strength if options.strength is None else options.strength,
        method.neurons if options.neurons is None else options.neurons,
        sigma,
    )


def _strength(options: Options) -> float:
    if options.strength is None:
        raise ValueError("these options are not settled: settle_options fills in the method's default strength")
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


@dataclass(frozen=True)
class SteeredSae:
    """An SAE at its hook, and what it is steered by.

    Attributes:
        hook_name: TransformerLens name of the hook.
        codec: the SAE.
        target: what it is steered by.
        topic_scores: the topic's scores [d_sae]. Contamination is measured by them even where something else steers, such as
            the values of a selection rule or the shuffled scores of a control; None where the target's own will do.
    """

    hook_name: str
    codec: Codec
    target: Target
    topic_scores: Tensor | None = None

    @cached_property
    def impurity(self) -> Tensor:
        """1 - score per neuron, by the topic's own scores [d_sae]."""
        return 1 - (self.target.scores if self.topic_scores is None else self.topic_scores)
