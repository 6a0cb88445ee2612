"""An atlas as a folder of Parquet files, and back: every table, row for row.

    DIR/manifest.json                                     schema version, and every file with its rows; written last
    DIR/<table>.parquet                                   every table but activations
    DIR/activations/sae_key=<n>/neurons_<a>_<b>.parquet   the activations of neurons a to b, in the order of the atlas

A folder without its manifest is an export that did not end. Both ways stream: memory does not grow with the atlas.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from atlas.errors import StoreError, shown
from atlas.progress import Progress, silent
from atlas.store.contents import read_sql, require_sound
from atlas.store.file import MANIFEST, STREAMING_LIMIT, STREAMING_THREADS, Store, require_writable
from atlas.store.manifest import Manifest, check_files, read_manifest, sae_key_of, table_names, write_manifest
from atlas.store.replacement import replacement
from atlas.store.session import Session
from atlas.store.state import require_complete

ROWS_PER_FILE = 4_000_000  # activation rows, some 20 MB
WIDE = ("embeddings", "neuron_vectors")  # tables of vectors
WIDE_ROWS = 8192  # of such a table, held in memory until they are written


def export_atlas(
    store: Store, folder: str | Path, *, rows_per_file: int = ROWS_PER_FILE, progress: Progress = silent
) -> Manifest:
    """Write every table of a finished atlas into a new folder.

    Args:
        store: the atlas.
        folder: where; it must not be there yet.
        rows_per_file: activation rows per file, about; a neuron's rows are never split.
        progress: called with (stage, done, total), in rows.

    Raises:
        StoreError: the atlas is unfinished, or the folder is there or cannot be made.
    """
    folder = Path(folder)
    source = Store(store.path, memory_limit=STREAMING_LIMIT, threads=STREAMING_THREADS, allowed=[folder])
    with source.read_file() as session:
        row = require_complete(session, store)
        _require_new_folder(folder)
        try:
            tables = _write_tables(session, folder, rows_per_file, progress)
            write_manifest(folder, reference_hash=row["reference_hash"], tables=tables)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return read_manifest(folder)


def _require_new_folder(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise StoreError(f"{folder} is there already and holds no whole export: remove it, or name another folder")
    if folder.exists():
        raise StoreError(f"{folder} is there already: remove it, or name another folder")
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise StoreError(f"no such folder {folder.parent}: make it first, or choose another") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}): choose another place") from error


def _write_tables(session: Session, folder: Path, rows_per_file: int, progress: Progress) -> dict[str, dict[str, int]]:
    ranges = session.ask("neuron_ranges", rows=rows_per_file)
    done, total = 0, int(ranges["rows"].sum())
    progress("exporting", 0, total)
    tables: dict[str, dict[str, int]] = {}
    for table in table_names():
        if table != "activations":
            name = f"{table}.parquet"
            group = {"group": WIDE_ROWS} if table in WIDE else {}
            tables[table] = {name: session.write_parquet(f'select * from "{table}"', folder / name, **group)}
    tables["activations"] = {}
    for part in ranges.drop("rows").to_dicts():
        name = "activations/sae_key={sae_key}/neurons_{first_neuron:06}_{last_neuron:06}.parquet".format(**part)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = session.write_parquet(read_sql("activation_range"), folder / name, **part)
        tables["activations"][name] = rows
        done += rows
        progress("exporting", done, total)
    return tables


def import_atlas(folder: str | Path, path: str | Path, *, progress: Progress = silent) -> Manifest:
    """Make an atlas file from an export. It is written under another name first, and is there whole or not at all.

    Args:
        folder: what `export_atlas` wrote.
        path: the atlas file to make; it must not be there yet.
        progress: called with (stage, done, total), in tables.

    Raises:
        StoreError: the folder is no whole export of this schema version, or the file is there or cannot be made.
    """
    manifest, store = read_manifest(folder), Store(path)
    if store.exists():
        raise StoreError(f"{store.path} is there already: remove it, or name another file")
    require_writable(store.path)
    check_files(manifest)
    with replacement(store.path) as new_path, _plain_paths(manifest) as manifest_here:
        new = Store(new_path, memory_limit=STREAMING_LIMIT, threads=STREAMING_THREADS, allowed=[manifest_here.folder])
        new.create()
        with new.write() as session:
            for done, table in enumerate(manifest.tables):
                progress("importing", done, len(manifest.tables))
                for name in manifest.tables[table]:
                    read_file(session, manifest_here, table, name)
            _require_reference(session, manifest)
            require_sound(manifest.folder, session.ask("faults").rows())
            progress("importing", len(manifest.tables), len(manifest.tables))
        new.checkpoint()
    return manifest


@contextmanager
def _plain_paths(manifest: Manifest) -> Iterator[Manifest]:
    """The export under a path that DuckDB does not take for a pattern of file names."""
    if not set("*?[") & set(str(manifest.folder)):
        yield manifest
        return
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "export"
        link.symlink_to(manifest.folder)
        yield replace(manifest, folder=link)


def read_file(session: Session, manifest: Manifest, table: str, name: str) -> None:
    """Append the rows of an export's file to its table; StoreError unless they are as many as the manifest says."""
    path, rows = str(manifest.folder / name), manifest.tables[table][name]
    found = session.parquet_rows(path)
    if found != rows:
        raise StoreError(f"{path} has {found} rows, and the manifest says {shown(rows)}: copy the export again")
    session.read_parquet(table, path, **constants_of(name))


def constants_of(name: str) -> dict[str, int]:
    """The columns that a file's path says."""
    key = sae_key_of(name)
    return {} if key is None else {"sae_key": key}


def _require_reference(session: Session, manifest: Manifest) -> None:
    rows = session.ask("atlas_row")
    if rows["reference_hash"].to_list() != [manifest.reference_hash]:
        raise StoreError(
            f"{manifest.folder} has files of more than one atlas (reference_hash differs): copy the export again"
        )


VIEWED = ("prompts", "embeddings", "activations", "prompt_totals", "examples")
COPIED = ("atlas", "saes", "shards", "neurons", "embedding_moments", "neuron_vectors", "labels")


@contextmanager
def open_export(folder: str | Path) -> Iterator[Store]:
    """An atlas for a moment, to score: it reads prompts and activations from an export's files, and has no topics yet.

    Raises:
        StoreError: the folder is no whole export of this schema version.
    """
    manifest = read_manifest(folder)
    check_files(manifest, (*COPIED, *VIEWED))
    with tempfile.TemporaryDirectory() as scratch, _plain_paths(manifest) as manifest_here:
        store = Store(Path(scratch) / "export.atlas", allowed=[manifest_here.folder], own=True)
        store.create()
        with store.write() as session:
            for table in COPIED:
                for name in manifest.tables[table]:
                    read_file(session, manifest_here, table, name)
            for table in VIEWED:
                if manifest.tables[table]:
                    session.view_parquet(table, _parts(manifest_here, table))
            require_sound(manifest.folder, session.ask("faults").rows())
        yield store


def _parts(manifest: Manifest, table: str) -> list[tuple[list[str], dict[str, int]]]:
    """The paths of a table's files, with the columns that the paths say: one part per SAE."""
    parts: dict[int | None, list[str]] = {}
    for name in manifest.tables[table]:
        parts.setdefault(sae_key_of(name), []).append(str(manifest.folder / name))
    return [(paths, {} if key is None else {"sae_key": key}) for key, paths in parts.items()]
