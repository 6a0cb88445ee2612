"""The prompts behind a score, and what the score would be without some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from atlas.errors import AtlasError
from atlas.explorer.found import mean_embedding
from atlas.explorer.spelled import literal, spelled
from atlas.explorer.visit import Visit


@dataclass(frozen=True)
class Reasons:
    """Why a neuron has its score.

    Attributes:
        prompts: prompt_id, text, source, distance, weight and contribution, heaviest first.
        g: what the contributions sum to, as it is stored or searched.
        score: 1 for the smallest g of the SAE, 0 for the largest; None where the neuron has no score.
        se: standard error of the score; None where it is not known.
        z: against random topics; None where it is not known.
        lowest: the smallest g of the SAE's neurons.
        highest: the largest.
        sql: the query that gives the prompts.
    """

    prompts: pl.DataFrame
    g: float | None
    score: float | None
    se: float | None
    z: float | None
    lowest: float
    highest: float
    sql: str

    def without(self, dropped: Collection[int]) -> tuple[float, float] | None:
        """g and score over the other prompts, those of the other neurons as they are; None when no prompt is left."""
        rest = self.prompts.filter(~pl.col("prompt_id").is_in(list(dropped)))
        weight = float(rest["weight"].sum())
        if not weight:
            return None
        g = float(rest["contribution"].sum()) / weight
        width = self.highest - self.lowest
        return g, 1 - (g - self.lowest) / width if width else 1.0


def stored_reasons(visit: Visit, topic: str, sae_key: int, neuron: int, *, scorer: str = "distance") -> Reasons:
    """Why a neuron has its score for a stored topic: what `atlas why` says.

    Raises:
        UnknownName: no such topic, SAE or neuron.
        AtlasError: the neuron never fired.
    """
    found = visit.atlas.why(topic, neuron, sae_id=sae_key, scorer=scorer)
    if found.is_empty():
        raise AtlasError(f"neuron {neuron} fired on no reference prompt, so that nothing is behind its score")
    row = found.row(0, named=True)
    bounds = visit.ask("scoring_range", topic=topic, sae_key=sae_key, scorer=scorer).row(0, named=True)
    sql = f"select * from why({literal(topic)}, {neuron}, sae := {sae_key}, scorer := {literal(scorer)})"
    prompts = found.select("prompt_id", "text", "source", "distance", "weight", "contribution")
    return Reasons(prompts, row["g"], row["score"], row["se"], row["z"], bounds["lowest"], bounds["highest"], sql)


def searched_reasons(visit: Visit, texts: Sequence[str], sae_key: int, neuron: int) -> Reasons:
    """The same for texts that were searched for, by the neuron's vector.

    Raises:
        AtlasError: the neuron never fired.
    """
    vector = mean_embedding(visit.embed(texts))
    given = {"vector": vector, "sae_key": sae_key, "neuron": neuron}
    with visit.atlas.store.read() as session:
        prompts = session.ask("why_texts", **given)
        row = session.ask("search_range", texts=len(texts), **given).row(0, named=True)
    if prompts.is_empty():
        raise AtlasError(f"neuron {neuron} fired on no reference prompt, so that nothing is behind its score")
    g = row["g"] if row["g"] is not None else float(prompts["contribution"].sum())
    return Reasons(
        prompts, g, row["score"], None, row["z"], row["lowest"], row["highest"], spelled("why_texts", **given)
    )
