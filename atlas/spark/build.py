"""Build on Apache Spark: a shard is a partition; executors write it as Parquet, and the driver takes it into the atlas.

    STAGING/<shard>.prompts           a shard's prompts: the driver writes them, an executor reads them
    STAGING/<shard>/<table>.parquet   what an executor found; the folder gets this name when it is whole
    STAGING/<shard>.failure           why an executor cannot compute it, in a line: what the driver says when Spark gives up

The name of a shard tells all that its rows depend on. So what a lost executor had begun is done again by another one, what
a stopped build has staged is not done again, and what another build staged is not taken.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import polars as pl

from atlas.building.shards import BuildModels, Shard, ShardWriter, Tables, compute_shard
from atlas.building.staging import clear_staging, staging_folder
from atlas.errors import AtlasError, StoreError
from atlas.models.encoders import check_encoder, load_encoder
from atlas.models.fingerprints import check_identity
from atlas.models.loading import load_language_model
from atlas.models.places import resolve_name
from atlas.models.saes import fit_sae, load_sae
from atlas.progress import Progress
from atlas.spark.session import start_spark
from atlas.store.failures import translate
from atlas.store.file import SCHEMA_VERSION, Store

POLL_SECONDS = 0.5
FAILURE = ".failure"
UNSEEN = "is not the folder that the driver sees: name one that every machine has, with --staging"
PATIENCE_SECONDS = 60.0  # for a network file system to show what was written on another machine


@dataclass(frozen=True)
class NamedSae:
    """Where an SAE is and what it is: columns of `saes`."""

    sae_key: int
    release: str
    sae_id: str
    dtype: str
    sae_hash: str


@dataclass(frozen=True)
class Recipe:
    """What an executor needs to know to have the driver's BuildModels; names are looked up there, hashes have to agree."""

    model: str
    model_hash: str
    tokenizer_hash: str
    saes: tuple[NamedSae, ...]
    encoder: str
    encoder_hash: str
    batch_size: int
    device: str
    dtype: str
    reads_plain: bool


@dataclass(frozen=True)
class Task:
    """A shard for an executor, with the name it has in the staging folder."""

    name: str
    shard: Shard


def run_on_spark(
    store: Store, models: BuildModels, progress: Progress, *, master: str, staging: str | Path | None = None
) -> int:
    """Compute every unfinished shard on Spark and take it into the atlas as it comes; how many there were (RunShards).

    Args:
        store: an atlas whose build is planned.
        models: what the executors load too, once per process of theirs: model, SAEs and encoder.
        progress: called with (stage, done, total).
        master: Spark's master: local[*], local[2], spark://host:7077 ...
        staging: a folder that every machine has at the same path; None for the one the atlas is in.

    Raises:
        AtlasError: Spark cannot be started, or an executor cannot do its work (with its reason).
        StoreError: the staging folder cannot be written, or not every machine sees it.
    """
    folder = staging_folder(store, staging)
    writer = ShardWriter(store, models.saes)
    if writer.pending:
        recipe = describe(models)
        waiting = _stage(folder, writer, recipe)
        tasks = [Task(name, shard) for name, shard in waiting.items() if not (folder / name).is_dir()]
        with _computing(tasks, recipe, folder, master=master, progress=progress) as job:
            _gather(waiting, writer, folder, job, progress)
    clear_staging(folder)
    return len(writer.pending)


def describe(models: BuildModels) -> Recipe:
    """What an executor needs to know of the models of a build."""
    saes = (
        NamedSae(key, sae.release, sae.sae_id, str(sae.codec.sae.W_dec.dtype).removeprefix("torch."), sae.sae_hash)
        for key, sae in sorted(models.saes.items())
    )
    model, encoder = models.model, models.encoder
    return Recipe(
        model=model.name,
        model_hash=model.model_hash,
        tokenizer_hash=model.tokenizer_hash,
        saes=tuple(saes),
        encoder=resolve_name(encoder.name),
        encoder_hash=encoder.encoder_hash,
        batch_size=models.batch_size,
        device=models.device,
        dtype=models.dtype,
        reads_plain=model.reads_plain,
    )


@lru_cache(maxsize=1)
def load_models(recipe: Recipe) -> BuildModels:
    """Load what a recipe names, once in the life of a process.

    Raises:
        ModelError: something is not there.
        StoreError: it is there with other weights than the driver's.
    """
    model = load_language_model(recipe.model, device=recipe.device, dtype=recipe.dtype)
    saes = {
        sae.sae_key: fit_sae(load_sae(sae.release, sae.sae_id, device=recipe.device, dtype=sae.dtype), model)
        for sae in recipe.saes
    }
    for sae in recipe.saes:
        row = {**asdict(recipe), **asdict(sae)}
        check_identity(row, model.model_hash, model.tokenizer_hash, saes[sae.sae_key].sae_hash)
    encoder = load_encoder(recipe.encoder, device=recipe.device)
    check_encoder(encoder, asdict(recipe))
    model = replace(model, reads_plain=recipe.reads_plain)
    return BuildModels(model, saes, encoder, recipe.batch_size, recipe.device, recipe.dtype)


def compute_task(recipe: Recipe, folder: Path, task: Task) -> None:
    """What an executor does with a shard: compute its rows, and let them be in the staging folder whole or not at all.

    Why it cannot is written down there too, for the driver: of an error on another machine Spark tells it a text only.
    """
    prompts = folder / f"{task.name}.prompts"
    if not prompts.is_file():
        raise StoreError(f"{folder} {UNSEEN}")
    try:
        tables = compute_shard(task.shard, pl.read_parquet(prompts, glob=False), load_models(recipe))
        _write_shard(folder, task.name, tables)
    except AtlasError as error:
        with suppress(OSError):
            (folder / f"{task.name}{FAILURE}").write_text(str(error), encoding="utf-8")
        raise


def _write_shard(folder: Path, name: str, tables: Tables) -> None:
    whole, part = folder / name, folder / f".{name}.{uuid.uuid4().hex}"
    try:
        part.mkdir()
        for table, frame in tables.items():
            with (part / f"{table}.parquet").open("wb") as handle:
                frame.write_parquet(handle)
                handle.flush()
                os.fsync(handle.fileno())
        part.rename(whole)
    except OSError as error:
        if not whole.is_dir():  # it is, when another attempt was first
            raise translate(error, folder) or error from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def name_shard(shard: Shard, prompts: pl.DataFrame, recipe: Recipe) -> str:
    """A name that differs wherever the rows of a shard may."""
    saes = [(sae.sae_key, sae.sae_hash, sae.dtype) for sae in recipe.saes if sae.sae_key in shard.sae_keys]
    machine = [
        getattr(recipe, name)
        for name in ("model_hash", "tokenizer_hash", "encoder_hash", "batch_size", "dtype", "reads_plain")
    ]
    digest = hashlib.sha256(repr((SCHEMA_VERSION, machine, saes, prompts.rows())).encode())
    return f"{shard.first:09}-{digest.hexdigest()[:16]}"


def _stage(folder: Path, writer: ShardWriter, recipe: Recipe) -> dict[str, Shard]:
    """Write down the prompts of every unfinished shard, and drop what another build has left: name -> shard."""
    shards: dict[str, Shard] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shard in writer.pending:
            prompts = writer.prompts(shard)
            name = name_shard(shard, prompts, recipe)
            shards[name] = shard
            prompts.write_parquet(folder / f"{name}.prompts")
    except OSError as error:
        raise translate(error, folder) or StoreError(
            f"{folder} cannot be written ({error.strerror}): name another folder with --staging"
        ) from error
    clear_staging(folder, keep=shards)
    return shards


@contextmanager
def _computing(
    tasks: Sequence[Task], recipe: Recipe, folder: Path, *, master: str, progress: Progress
) -> Iterator[Future[None]]:
    """Let Spark compute the tasks, a partition each, while the context lasts."""
    if not tasks:
        job: Future[None] = Future()
        job.set_result(None)
        yield job
        return
    progress(f"starting Spark at {master}", 0, 0)
    with ThreadPoolExecutor(1) as thread, start_spark(master) as spark:
        partitions = spark.sparkContext.parallelize(tasks, len(tasks))
        yield thread.submit(partitions.foreach, partial(compute_task, recipe, folder))


def _gather(
    waiting: dict[str, Shard], writer: ShardWriter, folder: Path, job: Future[None], progress: Progress
) -> None:
    """Take every shard into the atlas as soon as it is whole."""
    done, patience = 0, PATIENCE_SECONDS
    progress("prompts", 0, writer.total)
    while waiting:
        over = job.done()  # asked first, so that what came just now is not overlooked
        ready = sorted(waiting.keys() & {path.name for path in folder.iterdir()})
        for name in ready:
            shard = waiting.pop(name)
            writer.write(
                shard, {path.stem: pl.read_parquet(path, glob=False) for path in sorted((folder / name).iterdir())}
            )
            done += shard.count
            progress("prompts", done, writer.total)
            shutil.rmtree(folder / name)
            (folder / f"{name}.prompts").unlink()
        if over and not ready:
            error = job.exception()
            if error is not None:
                raise explain(error, folder, waiting) or error from error
            if patience <= 0:
                raise StoreError(
                    f"{folder} does not hold what the executors wrote: name a folder that every machine has, with --staging"
                )
            patience -= POLL_SECONDS
            time.sleep(POLL_SECONDS)
        elif not ready:
            wait([job], POLL_SECONDS)


def explain(error: BaseException, folder: Path, waiting: Iterable[str]) -> AtlasError | None:
    """What stopped an executor, where a user can put it right; None for a bug.

    Args:
        error: how Spark says it. What could not reach the staging folder is known by its words alone.
        folder: the staging folder, in which executors wrote why they could not.
        waiting: the shards that are not there.
    """
    for name in waiting:
        with suppress(FileNotFoundError):
            return AtlasError(f"an executor of Spark says: {(folder / f'{name}{FAILURE}').read_text(encoding='utf-8')}")
    text, again = str(error), "run the same command again to go on"
    if UNSEEN in text:
        return AtlasError(f"an executor of Spark says: {folder} {UNSEEN}")
    if "No module named 'atlas'" in text:
        return AtlasError(
            "the Python of Spark's executors cannot import atlas: install it on every machine, and name that Python in "
            f"PYSPARK_PYTHON; then {again}"
        )
    if "ExecutorLostFailure" in text or "Python worker exited unexpectedly" in text:
        return AtlasError(f"Spark lost the executor of one shard time after time, for want of memory perhaps; {again}")
    return None
