"""The settings of a scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atlas.errors import AtlasError, UnknownName
from atlas.scoring.distances import DISTANCES
from atlas.scoring.scorers import SCORERS
from atlas.scoring.summaries import SUMMARIES

MOST_POWER = 256  # 2 ** 256, and the squares of many, are still numbers


@dataclass(frozen=True)
class ScoringConfig:
    """What makes two scorings of a topic comparable.

    Attributes:
        summary: key of SUMMARIES.
        distance: key of DISTANCES.
        power: exponent of the distance; 2 as the paper's code has it, 1 as its equation prints it.
        min_support: neurons that fired on fewer prompts have no score.
        scorer: key of SCORERS.
        null_topics: random topics behind z, drawn once per number of texts; 0 leaves z out.
        candidates: scorer output: how many of the best neurons by distance are tried.
    """

    summary: str = "mean"
    distance: str = "euclidean"
    power: float = 2.0
    min_support: int = 20
    scorer: str = "distance"
    null_topics: int = 64
    candidates: int = 300

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise UnknownName("scorer", self.scorer, SCORERS)
        if self.summary not in SUMMARIES:
            raise UnknownName("summary", self.summary, SUMMARIES)
        if self.distance not in DISTANCES:
            raise UnknownName("distance", self.distance, DISTANCES)
        if not self.power > 0:
            raise AtlasError(f"power {self.power} is not positive: give 1 or 2")
        if self.power > MOST_POWER:
            raise AtlasError(f"power {self.power} is above {MOST_POWER}, where distances overflow: give 1 or 2")
        if self.min_support < 1:
            raise AtlasError(f"min_support {self.min_support} is below 1: give the least number of prompts, such as 20")
        if self.scorer == "centroid":
            self._require_kept_vectors()
        if self.null_topics < 0 or self.null_topics == 1:
            raise AtlasError(f"null_topics {self.null_topics} gives no spread: give 2 or more, or 0 to leave z out")
        if self.candidates < 2:
            raise AtlasError(f"candidates {self.candidates} cannot be told apart: give 2 or more, such as 300")

    def _require_kept_vectors(self) -> None:
        """Scorer centroid reads vectors that are made once, of one summary, and distances that are linear in them."""
        for name, kept in (("summary", "mean"), ("distance", "euclidean"), ("power", 2)):
            if getattr(self, name) != kept:
                raise AtlasError(
                    f"scorer centroid goes by {name} {kept}, not {getattr(self, name)}: leave it out, or use scorer distance"
                )

    def columns(self) -> dict[str, Any]:
        """The columns of `scorings` that say how; null where the scorer does not use one."""
        uses = SCORERS[self.scorer].uses
        names = ("summary", "distance", "power", "min_support", "null_topics", "candidates")
        return {"scorer": self.scorer, **{name: getattr(self, name) if name in uses else None for name in names}}
