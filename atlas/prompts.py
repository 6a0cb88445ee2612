"""Read texts: a prompt set, or a topic's alignment texts.

A .txt file holds one text per line; .csv, .jsonl and .parquet files hold a column of them, and, if they like, a column
`source` that says where each comes from.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import PromptError, UnknownName

if TYPE_CHECKING:
    import polars as pl

ENDINGS = (".txt", ".csv", ".jsonl", ".ndjson", ".parquet")
TEXT_COLUMNS = ("text", "prompt")


@dataclass(frozen=True)
class TextSet:
    """Distinct texts in file order, with what was left out.

    Attributes:
        texts: the distinct, non-empty texts.
        sources: where each comes from; None where the file does not say.
        duplicates: texts dropped because they had come before.
        empty: rows (counted from 1) dropped because they hold no text.
    """

    texts: tuple[str, ...]
    sources: tuple[str | None, ...]
    duplicates: int = 0
    empty: tuple[int, ...] = ()


def read_texts(path: str | Path, *, text_column: str | None = None) -> TextSet:
    """Read a .txt, .csv, .jsonl or .parquet file.

    Args:
        path: the file.
        text_column: column of the texts; by default `text`, else `prompt`.

    Raises:
        PromptError: the file is missing, unreadable, not UTF-8, without the column or without a text.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError(f"no such file {path}: name a .txt, .csv, .jsonl or .parquet file of texts")
    if path.suffix.lower() == ".txt":
        return collect_texts(_read_lines(path), origin=str(path))
    if path.suffix.lower() not in ENDINGS:
        raise PromptError(f"{path}: unknown ending {path.suffix!r}, use one of {', '.join(ENDINGS)}")
    return _pick_texts(path, read_table(path), text_column)


def collect_texts(
    texts: Sequence[str | None], sources: Sequence[str | None] | None = None, *, origin: str = "texts"
) -> TextSet:
    """Drop empty and repeated texts; PromptError when nothing is left."""
    sources = sources or [None] * len(texts)
    kept: dict[str, str | None] = {}
    empty = []
    for row, (text, source) in enumerate(zip(texts, sources, strict=True), start=1):
        if text is None or not text.strip():
            empty.append(row)
        else:
            kept.setdefault(text.strip(), source)
    if not kept:
        raise PromptError(f"{origin}: no text in {len(texts)} rows, give at least one")
    duplicates = len(texts) - len(empty) - len(kept)
    return TextSet(tuple(kept), tuple(kept.values()), duplicates, tuple(empty))


def hash_texts(texts: Sequence[str]) -> str:
    """A hash of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _read_lines(path: Path) -> list[str]:
    lines = _decode(path).replace("\r\n", "\n").split("\n")  # splitlines would also cut at form feeds and the like
    return lines if lines[-1] else lines[:-1]


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data:
        raise PromptError(f"{path} is a binary file: give texts, one per line, in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def read_table(path: Path) -> pl.DataFrame:
    """Every column of a .csv, .json, .jsonl, .ndjson or .parquet file; PromptError for one that is empty or unreadable."""
    import polars as pl

    if path.stat().st_size == 0:
        raise PromptError(f"{path} is empty: give at least one text")
    try:
        return _read_frame(path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _pick_texts(path: Path, frame: pl.DataFrame, text_column: str | None) -> TextSet:
    import polars as pl

    wanted = [text_column] if text_column else list(TEXT_COLUMNS)
    column = next((name for name in wanted if name in frame.columns), None)
    if column is None:
        raise PromptError(
            f"{path}: {UnknownName('text column', wanted[0], frame.columns, hint='name it with --text-column')}"
        )
    try:
        texts = frame[column].cast(pl.String).to_list()
        sources = frame["source"].cast(pl.String).to_list() if "source" in frame.columns else None
    except pl.exceptions.PolarsError as error:
        raise PromptError(f"{path}: column {column!r} does not hold texts: name another with --text-column") from error
    return collect_texts(texts, sources, origin=str(path))


def _read_frame(path: Path) -> pl.DataFrame:
    import polars as pl

    if path.suffix.lower() == ".parquet":
        return pl.read_parquet(path)
    text = _decode(path)  # says what is wrong with a binary or non-UTF-8 file
    data = io.BytesIO(text.encode())
    if path.suffix.lower() == ".csv":
        return pl.read_csv(data, infer_schema=False)
    if text.lstrip().startswith("["):
        return pl.read_json(data, infer_schema_length=None)
    return pl.read_ndjson(data, infer_schema_length=None)


def _unreadable(path: Path, error: Exception) -> PromptError:
    return PromptError(f"{path} cannot be read as {path.suffix}: {' '.join(str(error).split())[:200]}")
