"""Is everything in an atlas file ours? What its catalog holds, against sql/schema.sql, sql/views.sql and sql/macros.sql.

And do its rows fit together? sql/faults.sql asks them. What reads the rows later takes that for granted.

The bodies of views and macros are not compared: sessions use this program's own, whatever a file has under their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import StoreError, shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

TABLE = re.compile(r"^create table (\w+) \((.*?)\);$", re.MULTILINE | re.DOTALL)
DEFINED = re.compile(r"^create or replace (?P<rest>(?P<kind>view|macro) (?P<name>\w+).*?;)$", re.MULTILINE | re.DOTALL)
SIMPLE = re.compile(r'"(\w+)"')  # a name in quotes that needs none, or may need some: versions of DuckDB differ
LATER = (
    "neuron_vectors",
    "embedding_moments",
    "labels",
    "map",
    "notes",
    "token_values",
    "token_logits",
    "logit_histograms",
)  # tables that files of this schema version may lack: older ones do
Thing = tuple[str, str, str | None]  # kind, name, statement: a row of sql/catalog.sql


@cache
def query_files() -> dict[str, Traversable]:
    """Name -> its file in sql/ or, by room, in one of its folders."""
    root = files("atlas.sql")
    folders = [root, *(entry for entry in root.iterdir() if entry.is_dir())]
    found = [file for folder in folders for file in folder.iterdir() if file.name.endswith(".sql")]
    return {file.name.removesuffix(".sql"): file for file in found}


@cache
def read_sql(name: str) -> str:
    """The text of the query of this name."""
    return query_files()[name].read_text()


@cache
def read_statement(name: str, column: str) -> str:
    """The statement of a text in sql/ that gives this column, one of several that give one each."""
    [found] = [one for one in read_sql(name).split(";") if re.search(rf"\bas {column}\b", one)]
    return found


@cache
def our_tables() -> dict[str, str]:
    """Name -> the statement that makes a table, as DuckDB says it, without quotes."""
    found = {}
    for name, body in TABLE.findall(read_sql("schema")):
        columns = [column.replace('"', "").split() for column in body.split(",")]
        found[name] = f"CREATE TABLE {name}({', '.join(f'{column} {kind.upper()}' for column, kind in columns)});"
    return found


@cache
def read_table(name: str) -> str:
    """The statements of sql/schema.sql that make a table, with its comments."""
    parts = rf"create table {name}|comment on table {name}|comment on column {name}\."
    return "\n".join(re.findall(rf"^(?:{parts}).*?;$", read_sql("schema"), re.MULTILINE | re.DOTALL))


@cache
def our_names(kind: str) -> frozenset[str]:
    """The names of our views, or of our macros."""
    return frozenset(found["name"] for found in DEFINED.finditer(read_sql(f"{kind}s")))


@cache
def read_definitions() -> dict[str, str]:
    """Name -> the statement that makes one of our views or macros for a session alone."""
    texts = read_sql("views") + read_sql("macros")
    return {found["name"]: f"create or replace temp {found['rest']}" for found in DEFINED.finditer(texts)}


def require_table(path: Path, things: Iterable[Thing], table: str, column: str) -> None:
    """Raise StoreError unless a file has this table, with this column."""
    for kind, name, statement in things:
        if name == table and kind == "table" and re.search(rf"\b{column}\b", statement or ""):
            return
        if name == table and kind != "table":
            raise _foreign(path, kind, name)
    raise StoreError(f"{path} is a DuckDB file but not an atlas: name another file")


def require_tables(path: Path, things: Iterable[Thing]) -> frozenset[str]:
    """The later tables that a file lacks; StoreError unless its catalog holds the others, views of our names, and no more."""
    missing = set(our_tables())
    for kind, name, statement in things:
        if kind == "view" and name in our_names("view"):
            continue
        if kind != "table" or name not in our_tables():
            raise _foreign(path, kind, name)
        missing.discard(name)
        if SIMPLE.sub(r"\1", statement or "") != our_tables()[name]:
            raise StoreError(
                f"{path}: table {name} is not made as those of an atlas are: it was altered, and may not be trusted; "
                "build it again, or get the file again from where it came"
            )
    if damage := missing.difference(LATER):
        raise StoreError(
            f"{path} lacks the table {min(damage)}: it is damaged; build it again, or get the file again from where it came"
        )
    return frozenset(missing)


def require_functions(path: Path, functions: Iterable[tuple[str, str]]) -> None:
    """Raise StoreError when a file has a function (sql/functions.sql) that is not a macro of ours."""
    for kind, name in functions:
        if kind != "table_macro" or name not in our_names("macro"):
            raise _foreign(path, "macro", name)


def require_sound(path: Path, faults: Iterable[tuple[str, str | None]]) -> None:
    """Raise StoreError when there is a row of sql/faults.sql: rows that contradict each other, or lack what is needed."""
    for fault, value in faults:
        named = "" if value is None else f": {shown(value)}"
        raise StoreError(
            f"{path} is damaged ({fault}{named}): build it again, or get the file again from where it came"
        )


def stack_vectors(vectors: pl.Series, width: int | None = None) -> np.ndarray:
    """Embeddings as an array [row, dimension]; StoreError unless they are of one width, and numbers."""
    import numpy as np

    found = vectors.explode().to_numpy()
    widths = vectors.list.len().fill_null(0).unique().to_list()
    if widths != [width or max(widths)] or not np.isfinite(found).all():
        raise StoreError(
            "the atlas is damaged (an embedding is of another width than others, or no number): build it again, or get the "
            "file again from where it came"
        )
    return found.reshape(len(vectors), -1)


def _foreign(path: Path, kind: str, name: str) -> StoreError:
    return StoreError(
        f"{path} holds a {kind} {shown(name)}, which is no part of an atlas: if it is yours, drop it or keep it in a file of "
        "its own; if not, do not trust the file"
    )
