"""Build an atlas: prompts -> embeddings and activation summaries -> tables.

A build is planned in one transaction (prompts, SAEs, shards), then runs shard by shard, each one transaction, and ends
by writing the tables once more, sorted, into a new file that takes the old one's place. So a build killed at any moment
goes on where it stopped, and ends with the same tables as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.building.finish import finish_build
from atlas.building.plan import write_plan
from atlas.building.shards import BuildModels, RunShards, run_here
from atlas.errors import AtlasError, ModelError, StoreError
from atlas.models.agreement import check_hooks
from atlas.models.encoder_export import keep_copy
from atlas.models.encoders import DEFAULT_ENCODER, check_encoder, load_encoder
from atlas.models.fingerprints import check_identity
from atlas.models.loading import load_language_model
from atlas.models.places import RECIPES, resolve_model, resolve_name
from atlas.models.saes import LoadedSae, fit_sae, load_sae, set_centring
from atlas.progress import Progress, silent
from atlas.store.file import STREAMING_LIMIT, Store, require_writable
from atlas.store.replacement import replacement, require_one_name
from atlas.store.waiting import alone, clear_mark, patient
from atlas.texts.prompts import TextSet


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        prompts: reference prompts in the atlas now.
        new_prompts: prompts this build added.
        new_saes: SAEs this build added.
        shards: shards this run computed.
        sorted: whether this run wrote the tables once more, sorted; with no shard, what a stopped build had left to do.
        truncated: prompts longer than the model's context, of those this build planned.
        rows: activation rows in the atlas now.
        cut_by_encoder: prompts longer than the sentence encoder reads, of those this build planned.
        same_embeddings: prompts in the atlas now whose embedding an earlier one has too.
        outdated_labels: key and id of SAEs whose labels of words were made before (True), or that have none and others have.
    """

    prompts: int
    new_prompts: int
    new_saes: int
    shards: int
    sorted: bool
    truncated: int
    rows: int
    cut_by_encoder: int = 0
    same_embeddings: int = 0
    outdated_labels: tuple[tuple[int, str, bool], ...] = ()


@patient()
def build_atlas(
    path: str | Path,
    prompts: TextSet,
    *,
    model: str,
    saes: Sequence[tuple[str, str]],
    encoder: str = DEFAULT_ENCODER,
    batch_size: int = 32,
    device: str = "cpu",
    dtype: str = "float32",
    memory_limit: str = STREAMING_LIMIT,
    progress: Progress = silent,
    run_shards: RunShards = run_here,
) -> BuildReport:
    """Build an atlas, go on with one, or add prompts and SAEs to one.

    While another process has the file, this waits as long as it takes.

    Args:
        path: the atlas file; made when it is not there.
        prompts: the reference prompts; those the atlas has already are kept as they are.
        model: the language model: hub name, local folder, GGUF file, or a name of atlas.models.places.RECIPES.
        saes: (release, sae_id) of each SAE to add; (folder, name) for local ones.
        encoder: SentenceTransformer name or folder.
        batch_size: prompts per forward pass.
        device: torch device of model and SAEs.
        dtype: number format of model and SAEs.
        memory_limit: what DuckDB may take, such as "1GB"; model and SAEs come on top.
        progress: called with (stage, done, total).
        run_shards: computes the shards; this process unless another engine is given.

    Raises:
        StoreError: the file is no atlas, has other names (hard links), or was built with another model, SAE or encoder.
        ModelError: something cannot be loaded, or an SAE does not fit its hook.
    """
    store = Store(path, memory_limit=memory_limit)
    saes = [(resolve_name(release), sae_id) for release, sae_id in dict.fromkeys(saes)]
    model = resolve_model(model, recorded=_recorded_model(store) if model in RECIPES else None)
    if _is_done(store, prompts, model, saes, encoder):
        clear_mark(store.path)
        return _report(store)
    require_writable(store.path)
    require_one_name(store.path)
    with alone(store.path):
        if _is_done(store, prompts, model, saes, encoder):  # by the build that this one waited for
            return _report(store)
        return _build(
            store, prompts, model=model, saes=saes, encoder=encoder, batch_size=batch_size, device=device, dtype=dtype,
            progress=progress, run_shards=run_shards,
        )  # fmt: skip


def _build(
    store: Store,
    prompts: TextSet,
    *,
    model: str,
    saes: Sequence[tuple[str, str]],
    encoder: str,
    batch_size: int,
    device: str,
    dtype: str,
    progress: Progress,
    run_shards: RunShards,
) -> BuildReport:
    """What `build` does when there is something to do and nobody else does it."""
    known, recorded, pending, missing = _look(store, prompts)
    progress("loading model, SAEs and encoder", 0, 0)
    language_model = load_language_model(model, device=device, dtype=dtype)
    sentence_encoder = load_encoder(encoder, device=device)
    if recorded:
        check_encoder(sentence_encoder, recorded[0])
    for row in known:
        check_identity(row, language_model.model_hash, language_model.tokenizer_hash)
    given = [load_sae(release, sae_id, device=device, dtype=dtype) for release, sae_id in saes]
    loaded = _number(known, [fit_sae(sae, language_model) for sae in given])
    for row in known:
        key = row["sae_key"]
        if key not in loaded and (missing or key in pending):
            loaded[key] = _load_again(row, device)
        if key in loaded:  # as it was begun
            loaded[key] = set_centring(loaded[key], center=row["center_writing_weights"])
    language_model, notes = check_hooks(language_model, list(loaded.values()))
    for note in notes:
        progress(note, 0, 0)
    if not store.exists():
        _create(store)
    new_prompts, truncated, cut = write_plan(
        store, prompts, language_model, loaded, encoder=sentence_encoder, dtype=dtype, progress=progress
    )
    models = BuildModels(language_model, loaded, sentence_encoder, batch_size, device, dtype)
    shards = run_shards(store, models, progress)
    settled = finish_build(store, language_model, progress)
    keep_copy(sentence_encoder, progress)
    new_saes = sum(key >= len(known) for key in loaded)
    return _report(
        store,
        new_prompts=new_prompts,
        new_saes=new_saes,
        shards=shards,
        sorted=settled,
        truncated=truncated,
        cut_by_encoder=cut,
    )


def _look(store: Store, prompts: TextSet) -> tuple[list[dict[str, Any]], list[dict[str, Any]], set[int], bool]:
    """What is there: SAEs, the row of `atlas`, the SAEs with unfinished shards, and whether some prompts are missing."""
    if not store.exists():
        return [], [], set(), True
    with store.read() as session:
        known = session.ask("all_saes").to_dicts()
        recorded = session.ask("atlas_row").to_dicts()
        pending = {key for keys in session.ask("pending_shards")["sae_keys"] for key in keys}
        texts = set(session.ask("prompt_texts")["text"])
    return known, recorded, pending, not set(prompts.texts) <= texts


def _number(known: Sequence[dict[str, Any]], given: Sequence[LoadedSae]) -> dict[int, LoadedSae]:
    """sae_key -> SAE: an SAE that the atlas knows by its weights keeps its key, wherever it lies now."""
    keys = {(row["sae_hash"], row["hook_name"]): row["sae_key"] for row in known}
    loaded: dict[int, LoadedSae] = {}
    for sae in given:
        loaded.setdefault(keys.setdefault((sae.sae_hash, sae.hook_name), len(keys)), sae)
    for row in known:
        named = [sae for sae in given if (sae.release, sae.sae_id) == (row["release"], row["sae_id"])]
        for sae in named:
            check_identity(row, row["model_hash"], row["tokenizer_hash"], sae.sae_hash)
    return loaded


def _load_again(row: dict[str, Any], device: str) -> LoadedSae:
    """An SAE of the atlas that this build did not name but has to run."""
    try:
        sae = load_sae(row["release"], row["sae_id"], device=device, dtype=row["dtype"])
    except AtlasError as error:
        raise ModelError(
            f"SAE {row['sae_id']} of this atlas is not at {row['release']} any more: name it too, where it is now, with "
            "--release and --sae-id"
        ) from error
    check_identity(row, row["model_hash"], row["tokenizer_hash"], sae.sae_hash)
    return sae


def _is_done(store: Store, prompts: TextSet, model: str, saes: Sequence[tuple[str, str]], encoder: str) -> bool:
    """Whether all of it is in the file, and the file finished."""
    if not store.exists():
        return False
    with store.read() as session:
        row = session.ask("atlas_row").to_dicts()
        if not row or row[0]["state"] != "complete" or row[0]["encoder"] != encoder:
            return False
        known = {(sae["model"], sae["release"], sae["sae_id"]) for sae in session.ask("all_saes").to_dicts()}
        texts = set(session.ask("prompt_texts")["text"])
    return {(model, *sae) for sae in saes} <= known and set(prompts.texts) <= texts


def _recorded_model(store: Store) -> str | None:
    """The language model of an atlas that is there, as it was named at build."""
    if not store.exists():
        return None
    with store.read() as session:
        return next(iter(session.ask("all_saes")["model"]), None)


def _create(store: Store) -> None:
    """Make the file under another name first, so that it is never seen without its tables."""
    try:
        with replacement(store.path) as path:
            new = Store(path)
            new.create()
            new.checkpoint()
    except OSError as error:
        raise StoreError(f"{store.path} cannot be written ({error.strerror}): choose another folder") from error


def _report(
    store: Store,
    *,
    new_prompts: int = 0,
    new_saes: int = 0,
    shards: int = 0,
    sorted: bool = False,
    truncated: int = 0,
    cut_by_encoder: int = 0,
) -> BuildReport:
    with store.read() as session:
        size = session.ask("atlas_size").to_dicts()[0]
        same = int(session.value("same_embeddings"))
        outdated = tuple(session.ask("outdated_labels").rows())
    return BuildReport(
        size["prompts"], new_prompts, new_saes, shards, sorted, truncated, size["rows"], cut_by_encoder, same, outdated
    )
