"""Vary a behaviour's vectors: one side of them alone, without the error, or moved by a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from atlas.contrast.vectors import current_vectors, vector_ids
from atlas.evaluation.controls import PERMUTATIONS, control_vectors
from atlas.evaluation.figures import Figure
from atlas.evaluation.intervals import Interval
from atlas.evaluation.runs import MethodSetting, Run
from atlas.models.recorded import RecordedModels
from atlas.steering.methods import METHODS, SteeredSae, settle_options
from atlas.steering.settings import Options
from atlas.steering.targets import load_steered_saes
from atlas.store.file import Store
from atlas.store.state import find_sae_keys

USERS = tuple(name for name, method in METHODS.items() if method.vector)


@dataclass(frozen=True)
class Ablation:
    """A sparse vector with something of it left out.

    Attributes:
        help: what it is, in a line.
        side: the side whose neurons alone steer, "positive" or "negative"; None for both.
        keep_error: see Steering.
    """

    help: str
    side: str | None = None
    keep_error: bool = True


ABLATIONS = {
    "positive part": Ablation("only the neurons of the positive side", side="positive"),
    "negative part": Ablation("only the neurons of the negative side", side="negative"),
    "error dropped": Ablation("x' = decode(a') instead of x + s (a' - a) D", keep_error=False),
}
RANDOM = "random"  # the control, see atlas.evaluation.controls


@dataclass(frozen=True)
class Vectors:
    """A behaviour's current vectors, on the SAEs that are steered at once.

    Attributes:
        saes: the SAEs with the vectors.
        rows: their rows in `saes`.
        scoring_ids: the scorings whose scores weigh neurons.
        vector_ids: method -> the vectors it steers by.
        tau: of the sparse vector.
        parts: per SAE the rows of sql/make_sas_vector.sql.
        columns: per SAE what a control is matched by.
    """

    saes: list[SteeredSae]
    rows: list[dict[str, Any]]
    scoring_ids: list[int]
    vector_ids: dict[str, list[int]]
    tau: float
    parts: list[pl.DataFrame]
    columns: list[pl.DataFrame]

    def settings(
        self, method: str, strengths: Sequence[float], *, sigma: str = "own", ablations: bool = False
    ) -> list[MethodSetting]:
        """A method, its random control and, where asked for, its ablations, at every strength."""
        variants = [MethodSetting(method), MethodSetting(method, control=RANDOM)]
        if method == "sas" and ablations:
            possible = [MethodSetting(method, ablation=name) for name in ABLATIONS]
            variants += [setting for setting in possible if self.sae_sets(setting, 0)]
        chosen = sigma if METHODS[method].sigmas else "own"
        options = [settle_options(method, Options(strength, sigma=chosen)) for strength in strengths]
        return [replace(variant, options=one) for variant in variants for one in options]

    def sae_sets(self, setting: MethodSetting, seed: int) -> list[list[SteeredSae]]:
        """The SAEs under a control or an ablation; a set per permutation, none where an ablation leaves nothing."""
        if setting.control is not None:
            return [
                [self._moved(i, setting.control, seed + number) for i in range(len(self.saes))]
                for number in range(PERMUTATIONS)
            ]
        side = None if setting.ablation is None else ABLATIONS[setting.ablation].side
        if side is None:
            return [self.saes]
        parts = [self._part(i, side) for i in range(len(self.saes))]
        return [parts] if all(one.target.vector("sas").any() for one in parts) else []

    @property
    def sparse_entries(self) -> int:
        """Neurons in the sparse vector, over all SAEs."""
        return _count_entries(self.saes)

    def run(self, setting: MethodSetting) -> Run:
        """A run by these vectors, with what is known before it: its vectors, and the neurons in a sparse one."""
        run = Run(setting, scoring_ids=self.scoring_ids, vector_ids=self.vector_ids[setting.method])
        sparse = METHODS[setting.method].vector == "sas"
        run.parameters = {
            "sae_ids": [row["sae_id"] for row in self.rows],
            "sae_keys": [row["sae_key"] for row in self.rows],
            "tau": self.tau if sparse else None,
        }
        if sparse:
            count = _count_entries(self.sae_sets(setting, 0)[0])
            run.figures[Figure("entries")] = Interval(count, None, None)
            run.figures[Figure("share of neurons")] = Interval(
                count / sum(row["d_sae"] for row in self.rows), None, None
            )
        return run

    def _moved(self, i: int, control: str, seed: int) -> SteeredSae:
        support, norm = (self.columns[i][name].to_numpy() for name in ("support", "decoder_norm"))
        return replace(self.saes[i], target=control_vectors(self.saes[i].target, control, support, norm, seed))

    def _part(self, i: int, side: str) -> SteeredSae:
        target = self.saes[i].target
        rows = self.parts[i].filter((pl.col("side") == side) & ~pl.col("shared"))
        part = torch.zeros_like(target.scores)
        part[rows["index"].to_torch().long()] = rows["value"].to_torch().to(part)
        return replace(self.saes[i], target=target.with_vectors(sas=part))


def load_vectors(
    store: Store,
    recorded: RecordedModels,
    name: str,
    sae_ids: Sequence[str | int] | None = None,
    topic: str | None = None,
) -> Vectors:
    """A behaviour's current vectors for some SAEs, by default the first that has them."""
    keys = find_sae_keys(store, sae_ids)
    saes, scoring_ids, rows = load_steered_saes(recorded, topic, keys, vectors=[name])
    with store.read() as session:
        chosen = [row["sae_key"] for row in rows]
        made = current_vectors(session, [name]).filter(pl.col("kind") == "sas")
        settings = [made.filter(pl.col("sae_key") == key).to_dicts()[0] for key in chosen]
        wanted = ("sae_key", "position", "tau", "pairs")
        return Vectors(
            saes,
            rows,
            scoring_ids,
            {method: vector_ids(session, [name], chosen, str(METHODS[method].vector)) for method in USERS},
            float(settings[0]["tau"]),
            [session.ask("make_sas_vector", behaviour=name, **{key: one[key] for key in wanted}) for one in settings],
            [session.ask("matching_columns", sae_key=key) for key in chosen],
        )


def _count_entries(saes: Sequence[SteeredSae]) -> int:
    return sum(int((sae.target.vector("sas") != 0).sum()) for sae in saes)
