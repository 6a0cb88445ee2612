"""What the language model said of topics, gathered before the store is opened for writing; no model library is loaded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from atlas.errors import StoreError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.scored import require_scored
from atlas.scoring.scorers import SCORERS
from atlas.store.file import Store


class Probe(Protocol):
    """What a scorer that needs the language model asks of it."""

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id."""

    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """A frame with columns `neuron` and `output`."""


@dataclass(frozen=True)
class Evidence:
    """What the language model said, before the store is opened for writing.

    Attributes:
        activations: topic -> tokens per text and rows of `topic_activations`, for topics that lack them.
        candidates: (topic, sae_key) -> neurons whose output is scored.
        outputs: sae_key -> frame of `neuron` and `output`.
    """

    activations: dict[str, tuple[list[int], pl.DataFrame]]
    candidates: dict[tuple[str, int], list[int]]
    outputs: dict[int, pl.DataFrame]


def gather_evidence(
    store: Store,
    config: ScoringConfig,
    texts: Mapping[str, Sequence[str]],
    changed: Sequence[str],
    keys: Sequence[int],
    probe: Probe | None,
) -> Evidence:
    """Run the model where the scorer needs it and the store does not hold the result yet."""
    found = Evidence({}, {}, {})
    needs = SCORERS[config.scorer].needs
    if needs == "activations":
        with store.read() as session:
            have = {name: set(session.ask("topic_saes", topic=name)["sae_key"]) for name in texts}
        for name in texts:
            missing = [key for key in keys if name in changed or key not in have[name]]
            if missing:
                found.activations[name] = _require(probe, config).topic_activations(texts[name], missing)
    elif needs == "output":
        with store.read() as session:
            for name in texts:
                current = {} if name in changed else require_scored(session, name)
                for key in keys:
                    if key not in current:
                        raise StoreError(
                            f"topic {name!r} has no distance scores for SAE {key}, whose best neurons scorer output tries: "
                            "run `atlas score` without --scorer first"
                        )
                    best = session.ask("best_neurons", scoring_id=current[key], count=config.candidates)
                    found.candidates[name, key] = best["neuron"].to_list()
            known = {key: session.ask("known_outputs", sae_key=key) for key in keys}
        for key in keys:
            wanted = {neuron for (_, k), neurons in found.candidates.items() if k == key for neuron in neurons}
            missing = sorted(wanted - set(known[key]["neuron"]))
            fresh = _require(probe, config).output_scores(key, missing) if missing else known[key].clear()
            found.outputs[key] = pl.concat([known[key], fresh.select(known[key].columns).cast(known[key].schema)])
    return found


def _require(probe: Probe | None, config: ScoringConfig) -> Probe:
    if probe is None:
        raise ValueError(f"scorer {config.scorer} needs a probe")
    return probe
