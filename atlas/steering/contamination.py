"""What steering did to each text: contamination, and neurons kept, dropped and new (method: section 4)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from atlas.models.codec import Code
from atlas.steering.methods import SteeredSae
from atlas.steering.token_records import Call, Step, Text

WAITING = 1 << 19  # values of codes that wait for their figures


def weigh_code(acts: Tensor, impurity: Tensor) -> tuple[Tensor, Tensor]:
    """Per token Σ|a'|(1 - score) and Σ|a'|; contamination is the first as a share of the second.

    Args:
        acts: feature activations a' [..., m].
        impurity: 1 - score of each of their neurons [m].
    """
    size = acts.abs()
    return size @ impurity.to(size), size.sum(-1)


def share(impure: Tensor, total: Tensor) -> Tensor:
    """The share of each token's code that is off topic; 0 where nothing is active."""
    return impure / total.clamp(min=1e-30)


class Figures:
    """The figures of a text. What they come from waits until one is asked for, or until there is much of it."""

    def __init__(self, sae: SteeredSae, text: Text) -> None:
        self._sae, self._text = sae, text
        self._codes: list[tuple[Tensor, Tensor, Tensor | None, Tensor, list[Step]]] = []
        self._activations: list[tuple[Tensor, Tensor, Step]] = []
        self._values = 0
        self._columns: dict[int, Tensor] = {}  # by the step's identity: see _reduce

    def add_code(self, acts: Tensor, code: Code, mask: Tensor | None, call: Call) -> None:
        """Take in a call: an edited code, the one it came from, and which tokens count [batch, token], None for all."""
        now = _new(acts, call)
        counts = _whole(now) if mask is None else _new(mask, call)
        self._codes.append((now, _new(code.acts, call), code.neurons, counts, [call.step]))
        self._wait(now.numel())

    def add_activation(self, x: Tensor, mask: Tensor | None, call: Call) -> None:
        """Take in a call of a method without a code: its activation [batch, token, *site], encoded later, many at once."""
        x = _new(x, call).clone()
        self._activations.append((x, _whole(x) if mask is None else _new(mask, call), call.step))
        self._wait(x.shape[0] * x.shape[1] * self._sae.codec.d_sae)

    def _wait(self, values: int) -> None:
        self._values += values
        if self._values > WAITING:
            self._reduce()

    @torch.no_grad()
    def _reduce(self) -> None:
        """Keep of each call six rows: counts, impure, total, kept, now, was [6, batch, token]."""
        if self._activations:
            x, mask = (torch.cat(parts, dim=1) for parts in list(zip(*self._activations, strict=True))[:2])
            acts = self._sae.codec.encode(x).acts
            self._codes.append((acts, acts, None, mask, [step for *_, step in self._activations]))
        for acts, before, neurons, mask, steps in self._codes:
            now, was = acts.bool(), before.bool()
            impurity = self._sae.impurity
            weighed = weigh_code(acts, impurity if neurons is None else impurity.index_select(-1, neurons))
            columns = (mask, *weighed, (was & now).sum(-1), now.sum(-1), was.sum(-1))
            table = torch.stack([column.double().cpu() for column in columns])
            for step, own in zip(steps, table.split([step.width for step in steps], dim=2), strict=True):
                self._columns[id(step)] = own
        self._codes, self._activations, self._values = [], [], 0

    def contamination(self) -> list[float | None]:
        """Per text the share of a token's code that is off topic, mean over tokens; None where no token has a code."""
        mask, impure, total, *_ = self._table()
        known = mask * (total > 0)
        sums = (known * share(impure, total)).sum(1), known.sum(1)
        return [summed / n if n else None for summed, n in torch.stack(sums, dim=1).tolist()]

    def token_contamination(self) -> Tensor:
        """Per text and token the share of its code that is off topic [sequence, token]; NaN where it does not count."""
        mask, impure, total, *_ = self._table()
        return torch.where((mask > 0) & (total > 0), share(impure, total), torch.nan)

    def swapped(self) -> list[list[float]]:
        """Per text the mean numbers of neurons of a token that stayed active, became active and ceased to be."""
        mask, _, _, kept, now, was = self._table()
        sums = (mask * torch.stack([kept, now - kept, was - kept])).sum(-1)
        return (sums / mask.sum(-1).clamp(min=1)).T.tolist()

    def _table(self) -> Tensor:
        """What the calls left of each sequence, over all its tokens that were not thrown away [6, sequence, token]."""
        self._reduce()
        text, parts = self._text, []
        going = text.going()
        for number, step in enumerate(text.steps):
            own = self._columns.get(id(step))
            if own is None or not step.kept:
                continue
            own = own[..., : step.kept]
            if going is not None:
                own = _masked(own, going[number])
            if text.picked is not None:
                rows, found = text.picked[number]
                own = _masked(own[:, rows], found[:, None])
            if text.ends is not None:
                own = _masked(own, torch.arange(step.start, step.start + step.kept) < text.ends[:, None])
            parts.append(own)
        count = text.rows if text.picked is None else len(text.picked[0][0])
        return self._finite(torch.cat(parts, dim=2)) if parts else torch.zeros(6, count, 1)

    def _finite(self, table: Tensor) -> Tensor:
        """A table without the tokens whose activations are not finite, which is said."""
        finite = table.isfinite().all(0)
        if finite.all():
            return table
        warnings.warn(
            f"figures leave out {int((~finite & table[0].bool()).sum())} tokens whose activations at "
            f"{self._sae.hook_name} are not finite: load the model in bfloat16 or float32",
            UserWarning,
            stacklevel=5,
        )
        return torch.where(finite, table, 0)


def _masked(table: Tensor, mask: Tensor) -> Tensor:
    """A table [6, sequence, token] in which only the tokens of a mask count."""
    return torch.cat([table[:1] * mask, table[1:]])


def _new(x: Tensor, call: Call) -> Tensor:
    """Of x [batch, token, ...] the tokens that are new to the text, without their gradients."""
    x = x if call.new == call.shape[1] else x[:, -call.new :]
    return x.detach() if x.requires_grad else x


def _whole(x: Tensor) -> Tensor:
    """A mask [batch, token] of all tokens of x [batch, token, ...]."""
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
