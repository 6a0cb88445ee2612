"""The vectors of SAEs that this process asks for again and again, kept in memory while their file stays as it is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from atlas.store.session import Version

VALUES = 1 << 26  # 32-bit numbers that are kept: 256 MiB
Figures = Sequence[np.ndarray]  # all that the table neuron_vectors has of an SAE but the vectors


@dataclass
class _Kept:
    """An SAE that was asked for.

    Attributes:
        figures: what was in the file beside the vectors: they change with these.
        vectors: [neuron, dimension]; None where they were asked for once.
    """

    figures: Figures
    vectors: np.ndarray | None = None

    def fits(self, figures: Figures) -> bool:
        """Whether the file has the same still."""
        return all(
            np.array_equal(mine, other, equal_nan=True) for mine, other in zip(self.figures, figures, strict=True)
        )


class VectorMemory:
    """Vectors in memory, by the version of their file: one that another process has written to is another version.

    What this process writes leaves a version as it is, so that the figures are compared too. Vectors are read into memory when
    they are asked for the second time: reading them costs two or three products inside DuckDB. What is over the limit is not
    kept, and is multiplied inside DuckDB as ever.
    """

    def __init__(self, values: int = VALUES) -> None:
        self.values = values
        self._versions: WeakKeyDictionary[Version, dict[int, _Kept]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def find(self, version: Version, sae_key: int, figures: Figures) -> np.ndarray | None:
        """The vectors of an SAE [neuron, dimension]; None where they are not kept."""
        with self._lock:
            kept = self._versions.get(version, {}).get(sae_key)
            return kept.vectors if kept is not None and kept.fits(figures) else None

    def wants(self, version: Version, sae_key: int, figures: Figures, width: int) -> bool:
        """Whether vectors that are not kept are to be read and handed to `keep`: not at the first time, and if they fit."""
        with self._lock:
            own = self._versions.setdefault(version, {})
            asked = sae_key in own and own[sae_key].fits(figures)
            if not asked:
                own[sae_key] = _Kept(figures)
            return asked and _values(own) + len(figures[0]) * width <= self.values

    def keep(self, version: Version, sae_key: int, figures: Figures, vectors: np.ndarray) -> None:
        """Keep an SAE's vectors, and those of other files only while all fit."""
        with self._lock:
            own = self._versions.setdefault(version, {})
            own[sae_key] = _Kept(figures, vectors)
            if sum(map(_values, self._versions.values())) > self.values:
                self._versions = WeakKeyDictionary({version: own})


def _values(kept: dict[int, _Kept]) -> int:
    return sum(one.vectors.size for one in kept.values() if one.vectors is not None)


MEMORY = VectorMemory()
