"""What steers at each SAE: a topic's scores, its best neurons and contrastive vectors, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from atlas.contrast.vectors import saes_with_vectors, sum_vectors
from atlas.errors import StoreError, UnknownName
from atlas.models.recorded import RecordedModels
from atlas.scoring.scored import require_scored
from atlas.steering.methods import SteeredSae, Target
from atlas.steering.selection import DEFAULT_RULE, select_neurons
from atlas.store.state import require_complete

Chosen = Mapping[int, Sequence[int]]  # sae_key -> neurons


class SteeredSaes(NamedTuple):
    """SAEs with what steers at them, the scorings it comes from, and the SAEs' rows in the store."""

    saes: list[SteeredSae]
    scoring_ids: list[int]
    rows: list[dict[str, Any]]


def load_steered_saes(
    recorded: RecordedModels,
    topic: str | None,
    sae_keys: Sequence[int] | None = None,
    *,
    scorer: str = "distance",
    select: str = DEFAULT_RULE,
    vectors: Sequence[str] = (),
    chosen: Chosen | None = None,
) -> SteeredSaes:
    """The SAEs with a topic's current scores, and with contrastive vectors.

    Args:
        recorded: the model and SAEs of the atlas.
        topic: None gives every neuron the score 1, or those that are chosen the score 1 and the others 0.
        sae_keys: which SAEs; None for the first one that the topic is scored and the vectors are made for.
        scorer: whose scores.
        select: key of RULES.
        vectors: behaviours whose vectors are added up.
        chosen: the neurons that steer in a topic's stead, best first; then these are the SAEs.

    Raises:
        UnknownName: no such topic, scorer, rule, vector or neuron.
        AtlasError: the rule needs a signal that is not there.
        StoreError: the topic is not scored for an SAE over today's prompts, a vector is not made for it, or an SAE
            has changed.
        ModelError: an SAE's folder is gone.
    """
    with recorded.store.read() as session:
        require_complete(session, recorded.store)
        rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
        current = {} if topic is None else require_scored(session, topic, scorer)
        have = sorted(current or rows)
        if vectors:
            made = saes_with_vectors(session, vectors)
            have = [key for key in have if key in made] or have
        keys = list(chosen) if chosen else list(sae_keys) if sae_keys is not None else have[:1]
        for key in keys:
            if topic is not None and key not in current:
                raise StoreError(
                    f"topic {topic!r} is not scored for SAE {rows[key]['sae_id']}: run `atlas score` for it"
                )
        frames = {key: session.ask("steering_columns", sae_key=key, scoring_id=current.get(key)) for key in keys}
        sums = {
            key: sum_vectors(session, vectors, key, rows[key]["d_sae"], rows[key]["d_in"]) for key in keys if vectors
        }
    saes = []
    for key in keys:
        if chosen:
            target = choose_target(frames[key], chosen[key], recorded.device)
        else:
            target = make_target(frames[key], topic is None, recorded.device, select)
        if key in sums:
            arrays = {name: torch.tensor(array, device=recorded.device) for name, array in vars(sums[key]).items()}
            target = target.with_vectors(**arrays)
        scores = frames[key]["score"].fill_null(0).to_numpy()  # what contamination is measured by, whatever steers
        topic_scores = None if topic is None else torch.tensor(scores, dtype=torch.float32, device=recorded.device)
        saes.append(SteeredSae(rows[key]["hook_name"], recorded.placed_sae(rows[key]).codec, target, topic_scores))
    return SteeredSaes(saes, [current[key] for key in keys if key in current], [rows[key] for key in keys])


def choose_target(frame: pl.DataFrame, neurons: Sequence[int], device: str = "cpu") -> Target:
    """A Target of chosen neurons, best first: they have the score 1. The others, behind them, have 0 and never steer.

    Raises:
        UnknownName: the SAE has no such neuron.
    """
    own = list(dict.fromkeys(neurons))
    for neuron in own:
        if not 0 <= neuron < frame.height:
            raise UnknownName("neuron", neuron, [f"0 to {frame.height - 1}"])
    scores = np.zeros(frame.height, dtype=np.float32)
    scores[own] = 1
    rest = np.setdiff1d(np.arange(frame.height), own)
    return Target(
        torch.tensor(scores, device=device),
        torch.tensor(frame["max_activation"].to_numpy(), device=device),
        torch.tensor(np.concatenate([np.asarray(own, dtype=np.int64), rest]), device=device),
        most=len(own),
    )


def make_target(frame: pl.DataFrame, neutral: bool, device: str = "cpu", select: str = DEFAULT_RULE) -> Target:
    """A Target from the columns of sql/steering_columns.sql; `neutral` scores are all 1."""
    if neutral:
        scores, best = np.ones(frame.height, dtype=np.float32), np.arange(frame.height)
    else:
        scores, best = select_neurons(frame, select)
    return Target(
        torch.tensor(scores, device=device),
        torch.tensor(frame["max_activation"].to_numpy(), device=device),
        torch.tensor(best, device=device),
    )
