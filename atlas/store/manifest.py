"""The list of an export's files, and whether the files are those: names, links, rows and SHA-256.

An export may come from anywhere. Nothing is read from its folder that the manifest does not list, the manifest lists
nothing but the files of our own tables, and no file is reached through a link: so an export reads only itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from atlas.errors import StoreError, shown
from atlas.store.contents import LATER, read_sql
from atlas.store.file import MANIFEST, SCHEMA_VERSION

KIND = "neuron-atlas export"
LARGEST = 256 << 20  # bytes of a manifest: a line per 4 million activations leaves room for any
ACTIVATIONS = re.compile(r"activations/sae_key=(0|[1-9]\d{0,9})/neurons_(\d{6,10})_(\d{6,10})\.parquet", re.ASCII)
AGAIN = "copy the export again"


@dataclass(frozen=True)
class Manifest:
    """What an export holds.

    Attributes:
        folder: where it is, links resolved.
        reference_hash: of the prompts it was built over.
        tables: table -> file under the folder -> its rows; files in the order of the rows.
        hashes: file -> SHA-256 of its bytes; none in exports that were made before there were any.
    """

    folder: Path
    reference_hash: str
    tables: dict[str, dict[str, int]]
    hashes: dict[str, str] = field(default_factory=dict)

    def files(self, table: str) -> list[str]:
        """The paths of a table's files."""
        return [str(self.folder / name) for name in self.tables[table]]

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(self.tables[table].values())


@cache
def table_names() -> tuple[str, ...]:
    """The tables of an atlas, in the order of sql/schema.sql."""
    return tuple(re.findall(r"^create table (\w+)", read_sql("schema"), re.MULTILINE))


def sae_key_of(name: str) -> int | None:
    """The SAE that an activations file says in its path; None for the file of another table."""
    found = ACTIVATIONS.fullmatch(name)
    return int(found[1]) if found else None


def write_manifest(folder: Path, *, reference_hash: str, tables: dict[str, dict[str, int]]) -> None:
    """List the files of an export, with their hashes; the list is there whole or not at all."""
    names = [name for files in tables.values() for name in files]
    content = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "reference_hash": reference_hash,
        "tables": tables,
        "sha256": hash_files(folder, names),
    }
    new = folder / f"{MANIFEST}.new"
    with new.open("w") as handle:
        json.dump({**content, "manifest_sha256": _hash_content(content)}, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    new.replace(folder / MANIFEST)


def read_manifest(folder: str | Path) -> Manifest:
    """What an export holds, every word of its manifest checked before it is used.

    Raises:
        StoreError: the folder is no export, an unfinished one, one of another schema version, or its manifest lists
            anything but the files of our tables, each once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StoreError(f"no such folder {folder}: name one that `atlas export` wrote")
    folder = folder.resolve()
    content = _read_content(folder)
    if content.get("kind") != KIND:
        raise StoreError(f"{folder / MANIFEST} is not the manifest of an export: name another folder")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise StoreError(
            f"{folder} has schema version {shown(version)}, this program reads version {SCHEMA_VERSION}: "
            "export it again, or install the version of atlas that made it"
        )
    told = content.pop("manifest_sha256", None)
    if ("sha256" in content or told is not None) and told != _hash_content(content):
        _refuse(folder, "was changed after it was written (its own SHA-256 differs)")
    reference = content.get("reference_hash")
    if not isinstance(reference, str):
        _refuse(folder, f"has {shown(reference)} for reference_hash, which is no text")
    tables = _checked_tables(folder, content.get("tables"))
    names = [name for files in tables.values() for name in files]
    hashes = _checked_hashes(folder, content["sha256"], names) if "sha256" in content else {}
    _require_all_listed(folder, names)
    return Manifest(folder, reference, tables, hashes)


def _read_content(folder: Path) -> dict[str, Any]:
    """The JSON object of a manifest."""
    path = folder / MANIFEST
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder} holds no {MANIFEST}, so it is no export, or one that did not end: export again"
        ) from error
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
        raise StoreError(f"{path} is not the manifest of an export: name another folder")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_once, parse_constant=_no_number)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): mend its permissions") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a number of 5,000 digits, brackets without end
        raise StoreError(f"{path} is not the manifest of an export: name another folder") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not the manifest of an export: name another folder")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that has every key once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _hash_content(content: dict[str, Any]) -> str:
    """SHA-256 of what a manifest says, however it is laid out; the order of the files counts."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _checked_tables(folder: Path, tables: Any) -> dict[str, dict[str, int]]:
    """The tables of a manifest, all of them and no other, each with the files that are its own; an older one may lack some."""
    if not isinstance(tables, dict):
        _refuse(folder, f"has {shown(tables)} for tables, which is no object of tables")
    for name in tables:
        if name not in table_names():
            _refuse(folder, f"lists table {shown(name)}, which no atlas has")
    for name in table_names():
        if name not in tables and name in LATER:
            continue
        if name not in tables:
            _refuse(folder, f"does not list table {name}")
        if not isinstance(tables[name], dict):
            _refuse(folder, f"has {shown(tables[name])} for table {name}, which is no object of files")
        for file, rows in tables[name].items():
            if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
                _refuse(folder, f"says that {shown(file)} has {shown(rows)} rows, which is no count")
        if name == "activations":
            _check_activations(folder, list(tables[name]))
        elif list(tables[name]) != [f"{name}.parquet"]:
            listed = shown(", ".join(tables[name]) or "no file")
            _refuse(folder, f"lists {listed} for table {name}, whose file is {name}.parquet")
    return {name: tables.get(name, {}) for name in table_names()}


def _check_activations(folder: Path, names: Iterable[str]) -> None:
    """The files of the activations: runs of neurons that do not overlap, in their order."""
    before = (-1, -1)
    for name in names:
        found = ACTIVATIONS.fullmatch(name)
        if not found:
            _refuse(
                folder,
                f"lists {shown(name)} for table activations, whose files are activations/sae_key=N/neurons_A_B.parquet",
            )
        key, first, last = (int(part) for part in found.groups())
        if key >= 2**32 or first > last or (key, first) <= before:
            _refuse(folder, f"lists {name} out of order: its neurons were listed before, or come before those")
        before = (key, last)


def _checked_hashes(folder: Path, hashes: Any, names: list[str]) -> dict[str, str]:
    if not isinstance(hashes, dict):
        _refuse(folder, f"has {shown(hashes)} for sha256, which is no object of hashes")
    for name in names:
        if not isinstance(hashes.get(name), str):
            _refuse(folder, f"has no SHA-256 of {name}")
    return {name: hashes[name] for name in names}


def _require_all_listed(folder: Path, names: list[str]) -> None:
    """No activations lie in the folder that the manifest leaves out."""
    listed = set(names)
    for path in sorted((folder / "activations").glob("*/*.parquet")):
        name = path.relative_to(folder).as_posix()
        if name not in listed:
            _refuse(folder, f"does not list {shown(name)}, which is there")


def _refuse(folder: Path, reason: str) -> NoReturn:
    raise StoreError(f"{folder / MANIFEST} {reason}: {AGAIN}")


def check_files(manifest: Manifest, tables: Iterable[str] | None = None) -> None:
    """Raise StoreError unless the files of these tables (None: of all) are there, no link, and the ones that were written."""
    names = [name for table in tables or manifest.tables for name in manifest.tables[table]]
    for name in names:
        _require_inside(manifest.folder, name)
    if not manifest.hashes:
        return
    for name, found in hash_files(manifest.folder, names).items():
        if found != manifest.hashes[name]:
            raise StoreError(
                f"{manifest.folder / name} was changed after it was written (its SHA-256 differs from the manifest's): {AGAIN}"
            )


def _require_inside(folder: Path, name: str) -> None:
    """A plain file, reached through plain folders."""
    path = folder
    parts = Path(name).parts
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise StoreError(f"{folder / name} is missing, and the manifest lists it: {AGAIN}") from error
        if stat.S_ISLNK(mode):
            raise StoreError(f"{path} is a link, and an export holds none: {AGAIN}, links followed (cp -rL)")
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is no file, and the manifest lists it as one: {AGAIN}")


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File -> SHA-256 of its bytes, several files at a time."""
    listed = list(names)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(listed, pool.map(lambda name: _hash_file(folder / name), listed), strict=True))


def _hash_file(path: Path) -> str:
    try:
        found = path.stat()
        return _hash_version(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}): mend its permissions, or {AGAIN}") from error


@lru_cache(maxsize=100_000)
def _hash_version(path: Path, _size: int, _changed: int) -> str:
    """The hash of a file as it is now; a command that opens an export twice reads it once."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
