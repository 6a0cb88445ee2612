"""Encode activations with an SAE and decode what steering made of them.

SAELens gives `encode` and `decode`; steering also needs the pre-activations, a selection made under weights, the
decoder rows as `decode` applies them, and the per-token scale of an SAE that normalises its input. All of it is taken from the
SAE's own `encode` and `decode`, so that every architecture keeps its own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FEW_NEURONS = 2  # neurons are picked from a code where at most one in so many fired
STATISTICS = ("x_norm_coeff", "ln_mu", "ln_std")  # what SAELens keeps between one encode and its decode


@dataclass(frozen=True)
class Code:
    """One encoding of an activation x.

    Attributes:
        acts: the code a [..., d_sae].
        pre: pre-activations in the units of `acts` [..., d_sae]; for a gated SAE those of the magnitude path.
        mean: what was subtracted before encoding [..., 1], or None.
        statistics: what SAELens keeps between one encode and its decode (empty without input normalisation).
        scale: s(x), the length that one unit of a decoder row has in x [..., 1], or 1.
        neurons: whose values `acts` and `pre` hold [m], in order; None for all, d_sae of them.
    """

    acts: Tensor
    pre: Tensor
    mean: Tensor | None
    statistics: dict[str, Tensor]
    scale: Tensor | float
    neurons: Tensor | None = None

    def pick(self, values: Tensor) -> Tensor:
        """The values of the neurons that this code holds [..., m], taken from those of all neurons [..., d_sae]."""
        return values if self.neurons is None else values.index_select(-1, self.neurons)


class Codec:
    """An SAE's arithmetic on activations of the shape [..., *site], where site is [d_in] or [n_heads, d_head].

    Args:
        sae: a SAELens SAE in inference form.
        center: whether the SAE reads the activation minus its mean over d_in (`center_writing_weights`).
    """

    def __init__(self, sae: Any, *, center: bool = False) -> None:
        self.sae = sae.eval().requires_grad_(False)
        self.center = center
        self.joins_heads = sae.cfg.reshape_activations == "hook_z"
        sae.turn_off_forward_pass_hook_z_reshaping()  # heads are joined here, so that any batch shape works
        self._rescaled = bool(getattr(sae.cfg, "rescale_acts_by_decoder_norm", False))
        norms = sae.W_dec.norm(dim=-1, keepdim=True)
        self.decoder_rows: Tensor = sae.W_dec / norms if self._rescaled else sae.W_dec
        self._pre_scale = norms.squeeze(-1) if self._rescaled else None
        self.signed = sae.cfg.architecture() == "abstopk"
        self.largest_input_norm: float | None = sae.cfg.metadata.largest_input_norm

    @property
    def hook_name(self) -> str:
        """The hook of the model whose activations the SAE reads."""
        return str(self.sae.cfg.metadata.hook_name)

    @property
    def d_in(self) -> int:
        """Size of an activation."""
        return self.sae.cfg.d_in

    @property
    def d_sae(self) -> int:
        """Number of neurons."""
        return self.sae.cfg.d_sae

    @property
    def threshold(self) -> Tensor | float:
        """The JumpReLU threshold per neuron [d_sae], 1 for the other architectures."""
        return getattr(self.sae, "threshold", 1.0)

    def flatten(self, x: Tensor) -> Tensor:
        """x with heads joined: [..., d_in]."""
        return x.flatten(-2) if self.joins_heads else x

    def encode(self, x: Tensor, weights: Tensor | None = None) -> Code:
        """Encode x [..., *site]; with weights [d_sae] the SAE's own selection σ sees γ ⊙ weights."""
        flat, mean = self._center(x)
        acts, pre = self._encode(flat, None if weights is None else lambda pre: pre * weights)
        acts, pre = self._silence(x, acts, pre)
        statistics = self._statistics()
        return Code(acts, self._in_units(pre), mean, statistics, _scale(statistics))

    def encode_twice(self, x: Tensor, weights: Tensor) -> tuple[Code, Tensor]:
        """Encode x without and with weights, multiplying by the encoder's matrix once.

        Returns:
            The code of `encode(x)`, and the feature activations of `encode(x, weights)`; both hold only the neurons that
            fired in either, unless those are many (see `narrow`).
        """
        flat, mean = self._center(x)
        acts, pre = self._encode(flat, lambda pre: torch.stack([pre, pre * weights]))
        acts, pre = self._silence(x, acts, pre)
        statistics = self._statistics()
        return self._narrow(acts, Code(acts[0], self._in_units(pre), mean, statistics, _scale(statistics)))

    def narrow(self, acts: Tensor, code: Code) -> tuple[Code, Tensor]:
        """Leave out the neurons that fired neither in a code nor in the feature activations edited from it.

        Where more than one neuron in FEW_NEURONS fired, nothing is left out, since picking would cost more than it saves.

        Args:
            acts: the edited feature activations [..., d_sae], or those of the code's neurons where it is narrowed already.
            code: the code that they were edited from.
        """
        return (code, acts) if code.neurons is not None else self._narrow(torch.stack([code.acts, acts]), code)

    def _narrow(self, both: Tensor, code: Code) -> tuple[Code, Tensor]:
        fired = both.view(-1, self.d_sae).bool().view(torch.uint8).amax(dim=0)  # as bytes: quicker than any()
        neurons = fired.nonzero().squeeze(-1)
        if neurons.numel() * FEW_NEURONS > self.d_sae:
            return code, both[1]
        own, acts = both.index_select(-1, neurons).unbind()
        pre = code.pre.index_select(-1, neurons)
        return Code(own, pre, code.mean, code.statistics, code.scale, neurons), acts

    def reads(self, x: Tensor) -> Tensor | None:
        """Which activations [...] are of a size that the SAE was trained on; None where it has no such limit.

        At a few tokens, most of all the first, many models write activations a hundred times as long as elsewhere (Sun et
        al. 2024, "Massive activations in large language models"). An SAE that was trained without them says so by
        `largest_input_norm` in the metadata of its cfg.json: no neuron fires on a longer one, and it is not steered.
        """
        if self.largest_input_norm is None:
            return None
        return self.flatten(x).float().norm(dim=-1) <= self.largest_input_norm

    def _silence(self, x: Tensor, acts: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        """A code [..., d_sae] and its pre-activations, 0 at activations that the SAE does not read."""
        reads = self.reads(x)
        if reads is None:
            return acts, pre
        return acts * reads.unsqueeze(-1), pre * reads.unsqueeze(-1)

    def _center(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the SAE reads [..., d_in], and the mean that was subtracted [..., 1]."""
        flat = self.flatten(x).to(self.sae.dtype)
        mean = flat.mean(dim=-1, keepdim=True) if self.center else None
        return flat if mean is None else flat - mean, mean

    def _encode(self, flat: Tensor, change: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
        """The code of `flat` [..., d_in], its pre-activations changed on the way, and those before the change."""
        captured: list[Tensor] = []

        def weigh(_module: Any, _inputs: Any, pre: Tensor) -> Tensor | None:
            captured.append(pre)
            return change(pre) if change else None

        handle = self.sae.hook_sae_acts_pre.register_forward_hook(weigh)
        try:
            return self.sae.encode(flat), captured[0]
        finally:
            handle.remove()

    def _in_units(self, pre: Tensor) -> Tensor:
        return pre if self._pre_scale is None else pre * self._pre_scale

    def input_scale(self, x: Tensor) -> Tensor | float:
        """s(x) [..., 1] without encoding x; 1 for an SAE that does not normalise its input."""
        flat = self.flatten(x).to(self.sae.dtype)
        self.sae.run_time_activation_norm_fn_in(flat - flat.mean(dim=-1, keepdim=True) if self.center else flat)
        return _scale(self._statistics())

    def _statistics(self) -> dict[str, Tensor]:
        return {name: self.sae.__dict__[name] for name in STATISTICS if name in self.sae.__dict__}

    def decode(self, acts: Tensor, code: Code, like: Tensor) -> Tensor:
        """Decode the activations of a code's neurons under its statistics, in the shape and dtype of `like`."""
        self.sae.__dict__.update(code.statistics)
        moved = torch.addmm(self.sae.b_dec, acts.reshape(-1, acts.shape[-1]), self._rows(code))
        out = self.sae.run_time_activation_norm_fn_out(moved.view(*acts.shape[:-1], -1))
        if code.mean is not None:
            out = out + code.mean
        return out.to(like.dtype).reshape(like.shape)

    def shift(self, x: Tensor, code: Code, acts: Tensor) -> Tensor:
        """x + s(x) · (acts - a) · D, `acts` of the code's neurons; exactly x when none changed."""
        return self.add(x, (acts - code.acts) @ self._rows(code), code.scale)

    def _rows(self, code: Code) -> Tensor:
        return self.decoder_rows if code.neurons is None else self.decoder_rows.index_select(0, code.neurons)

    def select(self, acts: Tensor) -> Tensor:
        """The SAE's own σ on a code [..., d_sae]: ReLU, JumpReLU's threshold, TopK, or TopK by magnitude.

        A code that the SAE itself made comes back as it is.
        """
        config = self.sae.cfg
        architecture = config.architecture()
        if architecture in ("topk", "abstopk"):
            size = acts.abs() if self.signed else acts.relu()
            chosen = size.topk(config.k, dim=-1).indices
            kept = torch.zeros_like(acts, dtype=torch.bool).scatter_(-1, chosen, value=True)
            return torch.where(kept & (size > 0), acts, 0)
        least = self.sae.threshold.clamp(min=0) if architecture == "jumprelu" else 0
        return torch.where(acts > least, acts, 0)

    def add(self, x: Tensor, step: Tensor, scale: Tensor | float) -> Tensor:
        """x + scale · step, step [..., d_in] in the SAE's units, in the shape and dtype of x."""
        moved = self.flatten(x) + scale * step
        return moved.to(x.dtype).reshape(x.shape)


def _scale(statistics: dict[str, Tensor]) -> Tensor | float:
    if "ln_std" in statistics:
        return statistics["ln_std"]
    return 1 / statistics["x_norm_coeff"] if "x_norm_coeff" in statistics else 1.0
