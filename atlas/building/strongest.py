"""The strongest tokens of every neuron, kept while prompts stream by."""

from __future__ import annotations

import numpy as np
import polars as pl

from atlas.models.activations import Entries

EXAMPLES = 10  # strongest tokens kept per neuron


class Strongest:
    """The strongest tokens of every neuron, kept while prompts stream by.

    Only what enters a neuron's current top EXAMPLES is handed on, so that little is written after the first prompts. Of
    tokens that are equally strong the earlier prompt's comes first, so that the top does not depend on what was seen when.
    """

    def __init__(self, d_sae: int) -> None:
        self._values = np.zeros((d_sae, EXAMPLES), np.float32)  # per neuron, in ascending order

    def take(self, entries: Entries, prompt_ids: np.ndarray) -> pl.DataFrame:
        """The entries that belong to the strongest so far, as rows of `examples` without sae_key, rank and text."""
        good = np.flatnonzero(entries.value >= np.maximum(self._values[entries.neuron, 0], np.float32(1e-30)))
        return self.sift(
            pl.DataFrame(
                {
                    "neuron": entries.neuron[good].astype(np.uint32),
                    "prompt_id": prompt_ids[entries.prompt[good]].astype(np.uint32),
                    "position": entries.position[good].astype(np.uint32),
                    "activation": entries.value[good],
                }
            )
        )

    def sift(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of such a frame that belong to the strongest so far."""
        neuron, value = frame["neuron"].to_numpy(), frame["activation"].to_numpy()
        good = np.flatnonzero(value >= self._values[neuron, 0])
        prompt, position = (frame[name].to_numpy()[good] for name in ("prompt_id", "position"))
        good = good[np.lexsort((position, prompt, -value[good], neuron[good]))]
        starts = np.flatnonzero(np.diff(neuron[good].astype(np.int64), prepend=-1))
        place = np.arange(len(good)) - np.repeat(starts, np.diff(starts, append=len(good)))
        found = frame[good[place < EXAMPLES]]
        self.remember(found)
        return found

    def remember(self, frame: pl.DataFrame) -> None:
        """Raise the bar to what rows of `examples` show."""
        neuron = frame["neuron"].to_numpy()
        value = frame["activation"].to_numpy()
        touched = np.unique(neuron)
        rows = np.concatenate([np.repeat(touched, EXAMPLES), neuron])
        values = np.concatenate([self._values[touched].ravel(), value])
        order = np.lexsort((-values, rows))
        rows, values = rows[order], values[order]
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        for shift in range(EXAMPLES):
            self._values[touched, EXAMPLES - 1 - shift] = values[starts + shift]
