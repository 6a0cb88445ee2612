"""Read texts: a prompt set, or a topic's alignment texts.

A .txt file holds one text per line; .csv, .jsonl and .parquet files hold a column of them, and, if they like, a column
`source` that says where each comes from.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from atlas.errors import PromptError, UnknownName, shown

if TYPE_CHECKING:
    import polars as pl

ENDINGS = (".txt", ".csv", ".jsonl", ".ndjson", ".parquet")
TEXT_COLUMNS = ("text", "prompt")
BROKEN = re.compile("[\0\ud800-\udfff]")  # NUL ends a text in C; half a surrogate pair cannot be written as UTF-8
INKLESS = re.compile(  # letters and marks without ink: fillers, joiners, variation selectors, the empty braille cell
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
INK = re.compile(r"[^ \t\n\r]")  # JSON's white space left out


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
        PromptError: the file is missing, unreadable, not UTF-8, without the column or without a text, or the column holds
            something else than texts.
    """
    path = require_file(path, f"name a {', '.join(ENDINGS)} file of texts")
    if path.suffix.lower() == ".txt":
        return collect_texts(_read_lines(path), origin=str(path))
    if path.suffix.lower() not in ENDINGS:
        raise PromptError(f"{path}: unknown ending {path.suffix!r}, use one of {', '.join(ENDINGS)}")
    return _pick_texts(path, read_table(path), text_column)


def list_files(
    folder: Path, endings: Sequence[str] = ENDINGS, *, of: str = "texts", per: str = "topic"
) -> dict[str, Path]:
    """Name -> file, for the files of a folder that have one of some endings.

    Args:
        folder: the folder.
        endings: with the dot, in small letters.
        of: what a file holds, for messages.
        per: what there is a file of each of, for messages.

    Raises:
        PromptError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise PromptError(f"no such folder {folder}: name one that holds a file of {of} per {per}")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings}
    if not files:
        raise PromptError(f"{folder} holds no {', '.join(endings)} file: put one per {per} there")
    return files


def require_file(path: str | Path, hint: str) -> Path:
    """The path of a file that is there; PromptError with the next step, `hint`, when it is not."""
    path = Path(path)
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except (OSError, ValueError):  # a name too long, a folder that may not be looked into, a NUL in the name
        pass
    raise PromptError(f"no such file {str(path)[:300]}: {hint}")


def collect_texts(
    texts: Iterable[str | None], sources: Sequence[str | None] | None = None, *, origin: str = "texts"
) -> TextSet:
    """Drop empty and repeated texts; a text without a character that shows is empty.

    Raises:
        PromptError: nothing is left, or something is no text: another type, or broken characters in it.
    """
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Iterable):
        raise PromptError(f"{origin}: give a list of texts, not {shown(texts)}")
    texts = list(texts)
    sources = sources or [None] * len(texts)
    kept: dict[str, str | None] = {}
    empty = []
    for row, (text, source) in enumerate(zip(texts, sources, strict=True), start=1):
        require_text(text, f"{origin}: row {row}")
        require_text(source, f"{origin}: the source of row {row}")
        if is_blank(text):
            empty.append(row)
        else:
            kept.setdefault(str(text).strip(), source)
    if not kept:
        raise PromptError(f"{origin}: no text in {len(texts)} rows, give at least one")
    duplicates = len(texts) - len(empty) - len(kept)
    return TextSet(tuple(kept), tuple(kept.values()), duplicates, tuple(empty))


def require_text(text: object, place: str) -> None:
    """Raise PromptError unless it is a text that every library takes, or None; `place` says where it was found."""
    if text is None:
        return
    if not isinstance(text, str):
        raise PromptError(f"{place} is {shown(text)}, which is no text: give strings")
    if BROKEN.search(text):
        raise PromptError(
            f"{place} holds a character that no UTF-8 text has ({shown(BROKEN.findall(text)[0])}): mend it"
        )


def is_blank(text: str | None) -> bool:
    """Whether a text shows nothing: none at all, white space, or characters without ink, such as zero-width spaces."""
    return text is None or not any(_shows(character) for character in text)


def _shows(character: str) -> bool:
    if " " < character < "\x7f":
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp") and not INKLESS.match(character)


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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror}): mend its permissions, or name another") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise PromptError(f"{path} is not UTF-8 but UTF-16: save it as UTF-8")
    if b"\0" in data:
        raise PromptError(f"{path} is a binary file: give texts, one per line, in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def read_table(path: Path) -> Table:
    """Every column of a .csv, .json, .jsonl, .ndjson or .parquet file; PromptError for one that is empty or unreadable."""
    import polars as pl

    try:
        if path.stat().st_size == 0:
            raise PromptError(f"{path} is empty: give at least one text")
        return Table(path, _read_columns(path))
    except PromptError:
        raise
    except (
        pl.exceptions.PolarsError,
        OSError,
        ValueError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise _unreadable(path, error) from error
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # Polars' own bugs come as one, which no `except Exception` catches
            raise
        raise _unreadable(path, error) from error


@dataclass(frozen=True)
class Table:
    """The columns of a file, each as a Polars series, or as a list where its values are of any kind (JSON)."""

    path: Path
    columns: dict[str, pl.Series | list[Any]]

    def texts(self, name: str, *, hint: str = "") -> list[str | None]:
        """A column of texts; numbers are given as the file has them. PromptError for a column of anything else."""
        found = self.columns[name]
        texts = _texts_of_json(found) if isinstance(found, list) else _texts_of_series(found)
        if isinstance(texts, str):
            raise PromptError(f"{self.path}: column {name!r} holds {texts} and no texts: give texts{hint}")
        return texts


def _texts_of_json(values: list[Any]) -> list[str | None] | str:
    """The values, or what is there instead of texts."""
    for value in values:
        if isinstance(value, list | dict):
            return "lists" if isinstance(value, list) else "objects"
    return [value if value is None or isinstance(value, str) else str(value).lower() for value in values]


def _texts_of_series(series: pl.Series) -> list[str | None] | str:
    """The values, or what is there instead of texts."""
    import polars as pl

    if series.dtype.is_nested() or series.dtype == pl.Object:
        return "lists or objects"
    try:
        return series.cast(pl.String).to_list()
    except pl.exceptions.PolarsError:
        return "bytes that are not UTF-8" if series.dtype == pl.Binary else str(series.dtype)


def _pick_texts(path: Path, table: Table, text_column: str | None) -> TextSet:
    wanted = [text_column] if text_column else list(TEXT_COLUMNS)
    column = next((name for name in wanted if name in table.columns), None)
    if column is None:
        raise PromptError(
            f"{path}: {UnknownName('text column', wanted[0], table.columns, hint='name it with --text-column')}"
        )
    texts = table.texts(column, hint=", or name another column with --text-column")
    sources = table.texts("source") if "source" in table.columns else None
    return collect_texts(texts, sources, origin=str(path))


def _read_columns(path: Path) -> dict[str, pl.Series | list[Any]]:
    import polars as pl

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet  # Polars' reader panics over damaged files, and says so on stderr

        with path.open("rb") as data, pyarrow.parquet.ParquetFile(data, page_checksum_verification=True) as file:
            frame = pl.DataFrame(pl.from_arrow(file.read()))
        return {series.name: series for series in frame}
    text = _decode(path)  # says what is wrong with a binary or non-UTF-8 file
    if path.suffix.lower() == ".csv":
        return {series.name: series for series in pl.read_csv(io.BytesIO(text.encode()), infer_schema=False)}
    return _columns_of_json(text)


def _columns_of_json(text: str) -> dict[str, pl.Series | list[Any]]:
    """The columns of a list of JSON objects, or of one object after the other."""
    rows = _json_values(text)
    if len(rows) == 1 and isinstance(rows[0], list):
        rows = rows[0]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"value {number} is {shown(row)} and no JSON object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _json_values(text: str) -> list[Any]:
    """JSON values one after the other; numbers stay as they are written, as texts."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_number)
    values, place = [], 0
    while place := _skip_space(text, place):
        value, place = decoder.raw_decode(text, place - 1)
        values.append(value)
    return values


def _skip_space(text: str, place: int) -> int:
    """One past the place of the next character that is no white space; 0 at the end."""
    found = INK.search(text, place)
    return found.end() if found else 0


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _unreadable(path: Path, error: BaseException) -> PromptError:
    return PromptError(f"{path} cannot be read as {path.suffix}: {' '.join(str(error).split())[:200]}")
