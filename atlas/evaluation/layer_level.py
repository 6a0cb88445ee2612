"""What an SAE, and a steering method on it, do on texts, token by token, without generating anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atlas.errors import AtlasError
from atlas.models.hooks import hook_activations
from atlas.models.loaded import LoadedModel
from atlas.steering.contamination import share, weigh_code
from atlas.steering.methods import METHODS, EditedCode, SteeredSae
from atlas.steering.settings import Options


@dataclass(frozen=True)
class LayerFigures:
    """Means over a text's tokens; arrays [text].

    Attributes:
        changed: neurons whose activation the method changed.
        reconstruction: ||x' - x||^2 - ||decode(a) - x||^2, reconstruction error not kept.
        contamination: share of the edited code that is off topic.
        changed_deviation: standard deviation of `changed` over the text's tokens.
    """

    changed: np.ndarray
    reconstruction: np.ndarray
    contamination: np.ndarray
    changed_deviation: np.ndarray


def activity(model: LoadedModel, sae: SteeredSae, texts: Sequence[str]) -> np.ndarray:
    """Mean activation per token of every neuron [text, d_sae], as absolute values."""
    parts = []
    for caught, mask in hook_activations(model, texts, [sae.hook_name]):
        x = caught[sae.hook_name]
        acts = sae.codec.encode(x).acts.abs() * mask.unsqueeze(-1)
        parts.append((acts.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)).float().cpu().numpy())
    return np.concatenate(parts)


def layer_figures(
    model: LoadedModel,
    sae: SteeredSae,
    texts: Sequence[str],
    method: str,
    options: Options,
) -> LayerFigures:
    """What a method that edits the code does on texts (method: section 6, point 2)."""
    edit_code = METHODS[method].edit
    if edit_code is None:
        raise AtlasError(f"method {method} edits no code: its figures are those of text alone")
    columns: list[list[float]] = [[], [], [], []]
    for caught, mask in hook_activations(model, texts, [sae.hook_name]):
        x = caught[sae.hook_name]
        edit = edit_code(sae.codec, x, sae.target, options)
        if not isinstance(edit, EditedCode):
            raise AtlasError(f"method {method} edits no code: its figures are those of text alone")
        flat = sae.codec.flatten(x).float()
        moved = sae.codec.flatten(sae.codec.decode(edit.acts, edit.code, x)).float()
        plain = sae.codec.flatten(sae.codec.decode(edit.code.acts, edit.code, x)).float()
        error = ((moved - flat) ** 2).sum(-1) - ((plain - flat) ** 2).sum(-1)
        changed = (edit.acts != edit.code.acts).sum(-1).float()
        impure, total = weigh_code(edit.acts.float(), edit.code.pick(sae.impurity))
        impure = share(impure, total)
        for row in range(len(mask)):
            counts = mask[row]
            if not counts.any():
                continue
            columns[0].append(float(changed[row][counts].mean()))
            columns[1].append(float(error[row][counts].mean()))
            filled = counts & (total[row] > 0)
            columns[2].append(float(impure[row][filled].mean()) if filled.any() else float("nan"))
            columns[3].append(float(changed[row][counts].std(correction=0)))
    return LayerFigures(*(np.array(column) for column in columns))
