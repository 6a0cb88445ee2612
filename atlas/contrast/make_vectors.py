"""Make steering vectors from contrast pairs: sparse over an SAE's neurons, and dense (method: section 5).

The codes of both sides of every pair go into `pair_codes`; the sparse vector is sql/make_sas_vector.sql over them, so that
another tau needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from atlas.contrast.pair_tokens import CODE_POSITIONS, Sides, tokenize_pairs, wrap_pairs
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.models.chat import check_chat
from atlas.models.hooks import catch_activations
from atlas.models.recorded import RecordedModels
from atlas.models.saes import LoadedSae
from atlas.models.tokens import pad_rows
from atlas.progress import Progress, silent
from atlas.store.file import Store
from atlas.store.session import Session, now
from atlas.store.state import find_sae_key, require_complete
from atlas.store.waiting import patient
from atlas.texts.names import require_name
from atlas.texts.pairs import PairSet

BATCH_PAIRS = 8  # pairs per forward pass
TAU = 0.7
TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class _Codes:
    """What the model said of the pairs for an SAE: rows of `pair_codes`, the dense vector, pairs run."""

    rows: pl.DataFrame
    dense: torch.Tensor
    pairs: int


def make_vectors(
    store: Store,
    name: str,
    pairs: PairSet,
    *,
    tau: float = TAU,
    position: str = "last",
    sae_ids: Sequence[str | int] | None = None,
    replace: bool = False,
    chat: bool = False,
    system: str | None = None,
    recorded: RecordedModels | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Store the sparse and the dense vector of a behaviour for each SAE, and make them the current ones.

    What is there already is not computed again; another tau or position of the same pairs makes further vectors.

    Args:
        store: a finished atlas.
        name: the behaviour.
        pairs: its contrast pairs.
        tau: least share of the pairs in which a neuron fires on a side to be kept there, above 0 and at most 1.
        position: key of CODE_POSITIONS.
        sae_ids: which SAEs; None for all.
        replace: give a behaviour that exists these pairs, dropping the vectors made from the others.
        chat: whether prompts are a user's messages, and completions the answers, in the model's chat template. The pairs are
            stored as they are read: plain and in a template they are other pairs.
        system: the system message before them; None for what the template has by itself.
        recorded: the loaded model and SAEs; None loads them from where they were at build, if they are needed.
        progress: called with (stage, done, total).

    Returns:
        A row per SAE: name, sae_key, sae_id, position, tau, pairs (those that fit into the context), positive and
        negative (neurons kept on each side), shared (kept on both, and so removed), entries (of the sparse vector).

    Raises:
        UnknownName: no such position or SAE.
        StoreError: the atlas is unfinished, or the behaviour has other pairs and `replace` is off.
        AtlasError: tau is out of range, no pair fits into the context, or a chat lacks a template or a prompt.
    """
    check_settings(tau, position)
    check_chat(chat, system)
    recorded = recorded or RecordedModels(store)
    if chat:
        pairs = wrap_pairs(recorded.model[1], pairs, system=system)
    if not isinstance(name, str):
        require_name("behaviour", name)
    with store.read() as session:
        require_complete(session, store)
        rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
        stored = session.ask("behaviour_pairs", behaviour=name).rows()
        keys = list(rows) if sae_ids is None else [find_sae_key(session, one) for one in sae_ids]
        if not stored:
            require_name("behaviour", name)
        changed = stored != pairs.rows()
        if stored and changed and not replace:
            raise StoreError(
                f"vector {name!r} has {len(stored)} other pairs already: choose another name, or --replace to give it "
                "these pairs and drop its vectors"
            )
        have = {key: session.value("coded_pairs", behaviour=name, sae_key=key, position=position) for key in keys}
    todo = [key for key in keys if changed or have[key] is None]
    codes = run_pairs(recorded, pairs, [rows[key] for key in todo], position, progress)
    found = []
    with patient(), store.write() as session:  # running the model took long
        session.renew_views()  # an atlas that is older than vector_overlap gets it with its vectors
        if changed:
            session.run("drop_behaviour", behaviour=name)
            session.append("pairs", _pair_frame(name, pairs))
        for key in keys:
            count = codes[key].pairs if key in codes else int(have[key])
            settings = {"behaviour": name, "sae_key": key, "position": position}
            if key in codes:
                labels = {"name": name, "sae_key": key, "position": position}
                session.append("pair_codes", codes[key].rows.with_columns(**_literals(labels)))
                dense = codes[key].dense.double().numpy()
                entries = pl.DataFrame({"index": range(len(dense)), "value": dense}).filter(pl.col("value") != 0)
                _keep_vector(session, "dense", {**settings, "tau": None}, count, entries)
            else:
                _keep_vector(session, "dense", {**settings, "tau": None}, count, None)
            kept = session.ask("make_sas_vector", tau=tau, pairs=count, **settings)
            entries = kept.filter(~pl.col("shared")).select("index", "value")
            _keep_vector(session, "sas", {**settings, "tau": float(tau)}, count, entries)
            found.append({**settings, "sae_id": rows[key]["sae_id"], "tau": tau, "pairs": count, **count_sides(kept)})
    columns = ("name", "sae_key", "sae_id", "position", "tau", "pairs", "positive", "negative", "shared", "entries")
    return pl.DataFrame(found).rename({"behaviour": "name"}).select(columns)


def check_settings(tau: float, position: str) -> None:
    """Raise AtlasError for a tau out of range, UnknownName for an unknown position."""
    if not 0 < tau <= 1:
        raise AtlasError(f"tau {tau} is out of range: give a share of the pairs above 0 and at most 1")
    if position not in CODE_POSITIONS:
        raise UnknownName("position", position, CODE_POSITIONS)


def count_sides(kept: pl.DataFrame) -> dict[str, int]:
    """Of the rows of sql/make_sas_vector.sql: neurons on each side, shared ones, and entries that are left."""
    sides = {side: kept.filter(pl.col("side") == side).height for side in ("positive", "negative")}
    shared = kept.filter(pl.col("shared")).height // 2
    return {**sides, "shared": shared, "entries": kept.filter(~pl.col("shared")).height}


def run_pairs(
    recorded: RecordedModels, pairs: PairSet, rows: Sequence[dict[str, Any]], position: str, progress: Progress = silent
) -> dict[int, _Codes]:
    """Run the plain model over the pairs: sae_key -> codes and dense vector, for these rows of `saes`."""
    found: dict[int, _Codes] = {}
    if not rows:
        return found
    progress("loading SAEs and model", 0, 0)
    saes = {row["sae_key"]: recorded.placed_sae(row) for row in rows}
    model, tokenizer = recorded.model
    context = min(row["context_size"] for row in rows)
    for prepend_bos in {row["prepend_bos"] for row in rows}:
        chosen = {row["sae_key"]: saes[row["sae_key"]] for row in rows if row["prepend_bos"] == prepend_bos}
        sides = tokenize_pairs(tokenizer, pairs, prepend_bos=prepend_bos, context=context)
        found |= _run_sides(model, tokenizer, sides, chosen, position, progress)
    return found


def _run_sides(
    model: Any, tokenizer: Any, sides: Sequence[Sides], saes: dict[int, LoadedSae], position: str, progress: Progress
) -> dict[int, _Codes]:
    frames: dict[int, list[pl.DataFrame]] = {key: [] for key in saes}
    sums = {key: torch.zeros(sae.codec.d_in, dtype=torch.float64) for key, sae in saes.items()}
    for done in range(0, len(sides), BATCH_PAIRS):
        progress("running the model over the pairs", done, len(sides))
        some = sides[done : done + BATCH_PAIRS]
        ids = [side for pair in some for side in (pair.positive, pair.negative)]
        spans = [CODE_POSITIONS[position].span(pair, side) for pair in some for side in (pair.positive, pair.negative)]
        batch, mask = pad_rows(tokenizer, ids, model.device)
        caught = catch_activations(model, batch, mask, [sae.hook_name for sae in saes.values()])
        for key, sae in saes.items():
            parts = [caught[sae.hook_name][row, begin:end] for row, (begin, end) in enumerate(spans)]
            flat = torch.stack([sae.codec.flatten(part).double().mean(0) for part in parts])
            acts = torch.stack([sae.codec.encode(part).acts.float().mean(0) for part in parts])
            if not (flat.isfinite().all() and acts.isfinite().all()):
                raise AtlasError(
                    f"activations at {sae.hook_name} are not finite numbers on pairs {some[0].pair + 1} to "
                    f"{some[-1].pair + 1}: use bfloat16 or float32, or leave such pairs out"
                )
            sums[key] += (flat[0::2] - flat[1::2]).sum(0).cpu()
            row, neuron = (index.cpu() for index in acts.nonzero(as_tuple=True))
            frames[key].append(
                pl.DataFrame(
                    {
                        "pair_id": pl.Series([some[i // 2].pair for i in row.tolist()], dtype=pl.UInt32),
                        "side": [("positive", "negative")[i % 2] for i in row.tolist()],
                        "neuron": pl.Series(neuron.numpy(), dtype=pl.UInt32),
                        "value": acts.cpu()[row, neuron].numpy(),
                    },
                    schema_overrides={"side": pl.String},
                )
            )
    progress("running the model over the pairs", len(sides), len(sides))
    return {
        key: _Codes(pl.concat(frames[key]).sort("side", "neuron", "pair_id"), sums[key] / len(sides), len(sides))
        for key in saes
    }


def sweep_tau(store: Store, name: str, taus: Sequence[float] = TAUS) -> pl.DataFrame:
    """How sparse a behaviour's vector is under each tau: a row per SAE, position and tau; stores nothing.

    Columns: name, sae_id, d_sae, position, tau, pairs, positive, negative, shared, entries.
    """
    found = []
    with store.read() as session:
        saes = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
        made = session.ask("current_vectors")
        if made.filter(pl.col("name") == name).is_empty():
            raise UnknownName("vector", name, made["name"].unique(), hint="make it first with `atlas contrast`")
        for row in made.filter((pl.col("name") == name) & (pl.col("kind") == "sas")).to_dicts():
            settings = {"behaviour": name, **{key: row[key] for key in ("sae_key", "position", "pairs")}}
            sae = saes[row["sae_key"]]
            for tau in taus:
                check_settings(tau, row["position"])
                counts = count_sides(session.ask("make_sas_vector", tau=tau, **settings))
                found.append({"sae_id": sae["sae_id"], "d_sae": sae["d_sae"], **settings, "tau": tau, **counts})
    columns = ("name", "sae_id", "d_sae", "position", "tau", "pairs", "positive", "negative", "shared", "entries")
    return pl.DataFrame(found).rename({"behaviour": "name"}).select(columns)


def compare_vectors(store: Store) -> pl.DataFrame:
    """How much the current vectors of each two behaviours overlap, per SAE.

    Columns: sae_id, a, b, kind, entries_a, entries_b, both (entries that both have), jaccard (both over either), cosine.
    """
    with store.read() as session:
        return session.ask("vector_overlap")


def _keep_vector(
    session: Session, kind: str, settings: dict[str, Any], pairs: int, entries: pl.DataFrame | None
) -> None:
    """Store a vector unless it is there, and make it the current one; `entries` may be None only for one that is there."""
    vector_id = session.value("same_vector", kind=kind, **settings)
    if vector_id is None:
        if entries is None:
            raise LookupError(f"a behaviour that was run has its {kind} vector")
        vector_id = session.next_id("vector_id")
        row = {
            **settings,
            "vector_id": vector_id,
            "kind": kind,
            "pairs": pairs,
            "is_current": True,
            "created_at": now(),
        }
        frame = pl.DataFrame([row], schema_overrides={"tau": pl.Float64})
        session.append("vectors", frame.rename({"behaviour": "name"}))
        session.append("vector_entries", entries.with_columns(vector_id=pl.lit(vector_id, pl.UInt32)))
    session.run(
        "make_vector_current",
        vector_id=vector_id,
        behaviour=settings["behaviour"],
        sae_key=settings["sae_key"],
        kind=kind,
    )


def _literals(values: dict[str, Any]) -> dict[str, pl.Expr]:
    return {name: pl.lit(value) for name, value in values.items()}


def _pair_frame(name: str, pairs: PairSet) -> pl.DataFrame:
    columns = {"prompt": pairs.prompts, "positive": pairs.positives, "negative": pairs.negatives}
    return pl.DataFrame({"name": [name] * len(pairs), "pair_id": range(len(pairs)), **columns})
