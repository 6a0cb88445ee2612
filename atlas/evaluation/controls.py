"""Controls of a steering method: the same method by scores, or by a vector, that cannot know what it is about.

Method: section 6, point 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atlas.steering.methods import METHODS, SteeredSae, Target

STRATUM = 20  # neurons that are alike in support and decoder norm
PERMUTATIONS = 4  # per control, shared out over the prompts or pairs, so that no verdict hangs on one


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        permute: (support, decoder norm, random generator) of the neurons that have a score -> which one's score each gets.
        help: what it is, in a line.
    """

    permute: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
    help: str


def shuffle(support: np.ndarray, norm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Any neuron gets any score."""
    return generator.permutation(len(support))


def match(support: np.ndarray, norm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scores move only among STRATUM neurons of like support and, within that, like decoder norm."""
    order = np.argsort(support, kind="stable")
    wide = STRATUM * max(1, round((len(order) / STRATUM) ** 0.5))  # as many classes of support as of norm in each
    strata = np.concatenate(
        [part[np.argsort(norm[part], kind="stable")] for part in np.split(order, range(wide, len(order), wide))]
    )
    source = np.arange(len(order))
    for start in range(0, len(strata), STRATUM):
        part = strata[start : start + STRATUM]
        source[part] = generator.permutation(part)
    return source


CONTROLS = {
    "shuffled": Control(
        shuffle, "the same method with the scores, or a vector's entries, shuffled over all neurons or dimensions"
    ),
    "random": Control(
        match,
        "the same method with them shuffled among neurons of like support and decoder norm, or with a random direction",
    ),
}


def control_target(target: Target, name: str, support: np.ndarray, norm: np.ndarray, seed: int) -> Target:
    """A target whose scores were moved by a control; neurons without a score stay without one.

    Scores move among all neurons that have one, not among those that a selection rule chose: which ones it chose says
    much about the topic. The best neurons of the control are those that got the scores of the chosen ones.

    Args:
        support: prompts per neuron [d_sae].
        norm: decoder norm per neuron [d_sae].
    """
    ranked = target.best.cpu().numpy()
    known = np.union1d(ranked, target.scores.nonzero().squeeze(-1).cpu().numpy())  # a score of 0 moves nothing
    source = CONTROLS[name].permute(support[known], norm[known], np.random.default_rng(seed))
    scores = target.scores.clone()
    scores[torch.from_numpy(known)] = target.scores[torch.from_numpy(known[source])]
    receiver = np.empty(len(support), dtype=np.int64)
    receiver[known[source]] = known
    best: Tensor = torch.from_numpy(receiver[ranked]).to(target.best.device)
    return replace(target, scores=scores, best=best)


def control_vectors(target: Target, name: str, support: np.ndarray, norm: np.ndarray, seed: int) -> Target:
    """A target whose contrastive vectors were moved by a control.

    Entries over neurons move as scores do, and the scores that weigh them (method filtered) go with them. A dense vector has
    no neurons to match: "shuffled" moves its entries, "random" is a random direction of its length.

    Args:
        support, norm: as in control_target.
    """
    sas, dense, difference = (target.vector(kind) for kind in ("sas", "dense", "difference"))
    generator = np.random.default_rng(seed)
    source = torch.from_numpy(CONTROLS[name].permute(support, norm, generator)).to(target.scores.device)
    size = len(dense)
    if name == "random":
        direction = torch.from_numpy(generator.standard_normal(size)).to(dense)
        dense = direction * dense.norm() / direction.norm()
    else:
        dense = dense[torch.from_numpy(generator.permutation(size)).to(dense.device)]
    moved = target.with_vectors(sas=sas[source], dense=dense, difference=difference[source])
    return replace(moved, scores=target.scores[source])


def controlled_saes(
    saes: Sequence[SteeredSae], columns: Sequence[pl.DataFrame], method: str, control: str, seed: int
) -> list[SteeredSae]:
    """SAEs whose scores, or vectors where the method steers by one, were moved by a control.

    Args:
        saes: the SAEs.
        columns: support and decoder_norm of every neuron, per SAE.
        method: key of METHODS.
        control: key of CONTROLS.
        seed: of the permutation.
    """
    move = control_target if METHODS[method].vector is None else control_vectors
    return [
        replace(sae, target=move(sae.target, control, own["support"].to_numpy(), own["decoder_norm"].to_numpy(), seed))
        for sae, own in zip(saes, columns, strict=True)
    ]
