"""A shard of a build: a run of prompts through the model, its SAEs and the encoder, and what the tables get of it.

What a shard gives depends on the shard alone, so that shards may be computed anywhere and in any order; what is taken into
the atlas is the same (`compute_shard`, `ShardWriter`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from atlas.building.staging import clear_staging, staging_folder
from atlas.building.strongest import Strongest
from atlas.models.activations import encode_entries, run_model, summarise, tokenize
from atlas.models.embeddings import embed_frame
from atlas.models.encoders import Encoder
from atlas.models.loading import LanguageModel
from atlas.models.saes import LoadedSae
from atlas.models.tokens import special_ids
from atlas.progress import Progress
from atlas.store.file import Store
from atlas.store.session import now

Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class BuildModels:
    """What shards are computed with.

    Attributes:
        model: the language model.
        saes: sae_key -> SAE.
        encoder: the sentence encoder.
        batch_size: prompts per forward pass.
        device: torch device of all of them.
        dtype: number format the model was asked for.
    """

    model: LanguageModel
    saes: Mapping[int, LoadedSae]
    encoder: Encoder
    batch_size: int
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Shard:
    """A run of prompts that some SAEs have not seen yet.

    Attributes:
        first: prompt_id of the first.
        count: how many prompts.
        sae_keys: those SAEs.
    """

    first: int
    count: int
    sae_keys: tuple[int, ...]


class RunShards(Protocol):
    """Computes every unfinished shard and takes it into the atlas; how many there were: what an engine of a build does."""

    def __call__(self, store: Store, models: BuildModels, progress: Progress) -> int:
        """See the class."""


def run_here(store: Store, models: BuildModels, progress: Progress) -> int:
    """Compute and commit the shards one after the other, in this process."""
    writer = ShardWriter(store, models.saes)
    total, done = writer.total, 0
    progress("prompts", 0, total)
    for shard in writer.pending:

        def tell(count: int, before: int = done) -> None:
            progress("prompts", before + count, total)

        writer.write(shard, compute_shard(shard, writer.prompts(shard), models, tell=tell))
        done += shard.count
    clear_staging(staging_folder(store))  # of a build that was begun on Spark
    return len(writer.pending)


def compute_shard(
    shard: Shard, prompts: pl.DataFrame, models: BuildModels, *, tell: Callable[[int], None] = lambda _: None
) -> Tables:
    """The rows that a shard adds to the tables: table -> frame.

    Args:
        shard: which SAEs.
        prompts: the rows of `ShardWriter.prompts`.
        models: what to compute them with.
        tell: called with the prompts done so far.
    """
    frames: list[tuple[str, pl.DataFrame]] = []
    fresh = prompts.filter(~pl.col("embedded"))
    if fresh.height:
        vectors = embed_frame(models.encoder, fresh["text"].to_list())
        frames.append(("embeddings", vectors.with_columns(fresh["prompt_id"])))
    saes = {key: models.saes[key] for key in shard.sae_keys}
    strongest = {key: Strongest(sae.codec.d_sae) for key, sae in saes.items()}
    done = 0
    for batch in _batches(prompts, models.batch_size):
        frames += _batch_frames(batch, models.model, saes, strongest)
        done += batch.height
        tell(done)
    names = dict.fromkeys(name for name, _ in frames)
    tables = {name: pl.concat([frame for table, frame in frames if table == name]) for name in names}
    return tables | {"activations": sort_activations(tables["activations"])}


def sort_activations(rows: pl.DataFrame) -> pl.DataFrame:
    """A shard's rows of `activations` in the order of neurons, so that who reads a run of neurons can skip the others."""
    return rows.sort("neuron", maintain_order=True)  # by several columns it would take five times as long


class ShardWriter:
    """Takes computed shards into an atlas, in any order, each in one transaction.

    Args:
        store: an atlas whose build is planned.
        saes: sae_key -> SAE, of those with unfinished shards at least.

    Attributes:
        pending: the unfinished shards as this begins.
        total: prompts in them; one that is in two shards counts twice.
    """

    def __init__(self, store: Store, saes: Mapping[int, LoadedSae]) -> None:
        self._store = store
        with store.read() as session:
            rows = session.ask("pending_shards").to_dicts()
            self._strongest = {key: Strongest(sae.codec.d_sae) for key, sae in saes.items()}
            for key, kept in self._strongest.items():
                kept.remember(session.ask("sae_examples", sae_key=key))
        self.pending = [Shard(row["first_prompt"], row["prompts"], tuple(row["sae_keys"])) for row in rows]
        self.total = sum(shard.count for shard in self.pending)
        ends = [shard.first + shard.count for shard in self.pending]
        self._embedded_to = dict(zip(self.pending, itertools.accumulate(ends, max, initial=0), strict=False))

    def prompts(self, shard: Shard) -> pl.DataFrame:
        """A shard's prompts: prompt_id, text, n_tokens, and whether it is embedded already, or by an earlier shard."""
        with self._store.read() as session:
            rows = session.ask("shard_prompts", first=shard.first, count=shard.count)
        return rows.with_columns(pl.col("embedded") | (pl.col("prompt_id") < self._embedded_to[shard]))

    def write(self, shard: Shard, tables: Tables) -> None:
        """Commit a shard; of its examples, those that are among the strongest so far."""
        fired = {key: tables["activations"].filter(pl.col("sae_key") == key).height for key in shard.sae_keys}
        examples = [
            self._strongest[key].sift(tables["examples"].filter(pl.col("sae_key") == key)) for key in shard.sae_keys
        ]
        with self._store.write() as session:
            for name, frame in {**tables, "examples": pl.concat(examples)}.items():
                session.append(name, frame)
            for key, rows in fired.items():
                session.run("finish_shard", sae_key=key, first=shard.first, rows=rows, finished_at=now())


def _batches(prompts: pl.DataFrame, batch_size: int) -> list[pl.DataFrame]:
    """A shard's prompts in batches of similar length; which prompts meet depends on the shard alone."""
    ordered = prompts.sort("n_tokens", "prompt_id")
    return list(ordered.iter_slices(batch_size))


def _batch_frames(
    batch: pl.DataFrame, model: LanguageModel, saes: Mapping[int, LoadedSae], strongest: Mapping[int, Strongest]
) -> list[tuple[str, pl.DataFrame]]:
    """One forward pass, and what the tables get of it: (table, rows)."""
    special = special_ids(model.tokenizer)
    prompt_ids = batch["prompt_id"].to_numpy()
    frames: list[tuple[str, pl.DataFrame]] = []
    for prepend_bos in sorted({sae.prepend_bos for sae in saes.values()}):  # one pass, unless BOS policies differ
        chosen = {key: sae for key, sae in saes.items() if sae.prepend_bos == prepend_bos}
        ids, _ = tokenize(model, batch["text"].to_list(), prepend_bos=prepend_bos)
        caught = run_model(model, ids, [sae.hook_name for sae in chosen.values()])
        for key, sae in chosen.items():
            entries = encode_entries(sae, caught[sae.hook_name], ids, special)
            rows, totals = summarise(entries, prompt_ids, sae.codec.d_sae)
            examples = strongest[key].take(entries, prompt_ids)
            sae_key = pl.lit(key, dtype=pl.UInt32).alias("sae_key")
            for table, frame in (("activations", rows), ("prompt_totals", totals), ("examples", examples)):
                frames.append((table, frame.with_columns(sae_key)))
    return frames
