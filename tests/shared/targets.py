"""Made-up targets to steer by, and the kinds of methods."""

from __future__ import annotations

import tiny
import torch

from atlas.steering.methods import METHODS, Target

EDITING = [name for name, method in METHODS.items() if method.edit]

WITH_CODE = [name for name in EDITING if METHODS[name].has_code]

ADDING = [name for name in EDITING if not METHODS[name].has_code]

BY_VECTOR = [name for name in EDITING if METHODS[name].vector]


def make_target(d_sae: int = 24, *, ones: bool = False) -> Target:
    generator = torch.Generator().manual_seed(5)
    scores = torch.ones(d_sae) if ones else torch.rand(d_sae, generator=generator)
    known = torch.arange(d_sae)
    if not ones:
        scores[:4] = 0  # as for neurons without a score: never chosen
        known = known[4:]
    best = known[scores[known].argsort(descending=True, stable=True)]
    peaks = 1 + torch.rand(d_sae, generator=generator)
    sas, difference = (torch.randn(d_sae, generator=generator) for _ in range(2))
    sas[::3] = 0
    dense = torch.randn(tiny.D_MODEL, generator=generator)
    return Target(scores, peaks, best, {"sas": sas, "dense": dense, "difference": difference})
