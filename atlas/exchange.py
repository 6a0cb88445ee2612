"""An atlas as a folder of Parquet files, and back: every table, row for row.

    DIR/manifest.json                                     schema version, and every file with its rows; written last
    DIR/<table>.parquet                                   every table but activations
    DIR/activations/sae_key=<n>/neurons_<a>_<b>.parquet   the activations of neurons a to b, in the order of the atlas

A folder without its manifest is an export that did not end. Both ways stream: memory does not grow with the atlas.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.checks import require_complete
from atlas.errors import StoreError
from atlas.progress import Progress, silent
from atlas.replacement import replacement
from atlas.store import (
    MANIFEST,
    SCHEMA_VERSION,
    STREAMING_LIMIT,
    STREAMING_THREADS,
    Session,
    Store,
    read_sql,
    require_writable,
)

KIND = "neuron-atlas export"
ROWS_PER_FILE = 4_000_000  # activation rows, some 20 MB
WIDE_ROWS = 8192  # of embeddings, held in memory until they are written


@dataclass(frozen=True)
class Manifest:
    """What an export holds.

    Attributes:
        folder: where it is.
        reference_hash: of the prompts it was built over.
        tables: table -> file under the folder -> its rows; files in the order of the rows.
    """

    folder: Path
    reference_hash: str
    tables: dict[str, dict[str, int]]

    def files(self, table: str) -> list[str]:
        """The paths of a table's files."""
        return [str(self.folder / name) for name in self.tables[table]]

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(self.tables[table].values())


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
    with Store(store.path, memory_limit=STREAMING_LIMIT, threads=STREAMING_THREADS).read() as session:
        row = require_complete(session, store)
        _require_new_folder(folder)
        try:
            tables = _write_tables(session, folder, rows_per_file, progress)
            _write_manifest(folder, {"reference_hash": row["reference_hash"], "tables": tables})
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
    for table in session.ask("table_names")["table_name"]:
        if table != "activations":
            name = f"{table}.parquet"
            group = {"group": WIDE_ROWS} if table == "embeddings" else {}
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


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    new = folder / f"{MANIFEST}.new"
    with new.open("w") as handle:
        json.dump({"kind": KIND, "schema_version": SCHEMA_VERSION, **content}, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    new.replace(folder / MANIFEST)


def read_manifest(folder: str | Path) -> Manifest:
    """What an export holds; StoreError when the folder is none, an unfinished one, or one of another schema version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"no such folder {folder}: name one that `atlas export` wrote")
    try:
        content = json.loads((folder / MANIFEST).read_text())
        kind, version = content["kind"], content["schema_version"]
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder} holds no {MANIFEST}, so it is no export, or one that did not end: export again"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{folder / MANIFEST} is not the manifest of an export: name another folder") from error
    if kind != KIND:
        raise StoreError(f"{folder / MANIFEST} is not the manifest of an export: name another folder")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{folder} has schema version {version}, this program reads version {SCHEMA_VERSION}: "
            "export it again, or install the version of atlas that made it"
        )
    return Manifest(folder, content["reference_hash"], content["tables"])


def check_files(session: Session, manifest: Manifest) -> None:
    """Raise StoreError unless every file of an export is there with its rows."""
    expected = {str(manifest.folder / name): rows for files in manifest.tables.values() for name, rows in files.items()}
    for name in expected:
        if not Path(name).is_file():
            raise StoreError(f"{name} is missing, and the manifest lists it: copy the export again")
    found = session.parquet_rows(list(expected))
    for name, rows in expected.items():
        if found.get(name) != rows:
            raise StoreError(f"{name} has {found.get(name)} rows, and the manifest says {rows}: copy the export again")


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
    if store.path.exists():
        raise StoreError(f"{store.path} is there already: remove it, or name another file")
    require_writable(store.path)
    with replacement(store.path) as new_path:
        new = Store(new_path, memory_limit=STREAMING_LIMIT, threads=STREAMING_THREADS)
        new.create()
        with new.write() as session:
            check_files(session, manifest)
            for done, table in enumerate(manifest.tables):
                progress("importing", done, len(manifest.tables))
                if manifest.tables[table]:
                    session.read_parquet(table, manifest.files(table))
            progress("importing", len(manifest.tables), len(manifest.tables))
        new.checkpoint()
    return manifest


VIEWED = ("prompts", "embeddings", "activations", "prompt_totals", "examples")
COPIED = ("atlas", "saes", "shards", "neurons")


@contextmanager
def open_export(folder: str | Path) -> Iterator[Store]:
    """An atlas for a moment, to score: it reads prompts and activations from an export's files, and has no topics yet.

    Raises:
        StoreError: the folder is no whole export of this schema version.
    """
    manifest = read_manifest(Path(folder).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "export.atlas")
        store.create()
        with store.write() as session:
            check_files(session, manifest)
            for table in COPIED:
                session.read_parquet(table, manifest.files(table))
            for table in VIEWED:
                if manifest.tables[table]:
                    session.view_parquet(table, manifest.files(table))
        yield store
