"""Values as cells: of a table on a terminal, of JSON that strict parsers take, and of CSV for spreadsheets.

A table and CSV show a mark for what a terminal would obey instead of showing; JSON has every character, escaped. NaN and
infinity are null in JSON, which knows neither, and decimals texts where a float would lose digits. Bytes are hexadecimal;
nested values are JSON in a table and in CSV.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from atlas.errors import visible

if TYPE_CHECKING:
    import polars as pl

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
SIMPLE = (
    "String",
    "Boolean",
    "Float32",
    "Float64",
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)
OBEYED = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # json escapes those below 0x20
CONTROLS = (  # what CSV has marks for; line breaks and tabs are part of its texts
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\x{061c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
)
UNEVEN = r"[^\S ]|  |^ | $|[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]"  # a text that a table cannot show as it is
FORMULA = r"^[=+\-@\t\r]"  # a text that spreadsheets would run
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def to_json(value: Any) -> str:
    """A value as one line of JSON, in which nothing is left that a terminal obeys."""
    return OBEYED.sub(_escape, _encode(value))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def json_rows(frame: pl.DataFrame) -> Iterator[str]:
    """Each row as a JSON object."""
    import polars as pl

    if (
        all(kind in SIMPLE for kind in map(str, frame.dtypes)) and frame.width
    ):  # quickly; NaN and infinity come out as null
        finite = frame.with_columns(
            pl.when(pl.col(pl.Float32, pl.Float64).is_finite()).then(pl.col(pl.Float32, pl.Float64))
        )
        yield from OBEYED.sub(_escape, finite.write_ndjson()).removesuffix("\n").split("\n") if frame.height else ()
        return
    columns = [_json_values(series) for series in frame]
    for row in zip(*columns, strict=True):
        yield to_json(dict(zip(frame.columns, row, strict=True)))


def _json_values(series: pl.Series) -> list[Any]:
    import polars as pl

    values = series.to_list()
    plain = series.dtype.is_integer() or series.dtype in (pl.String, pl.Boolean, pl.Null)
    return values if plain else [json_value(value) for value in values]


def json_value(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_json_key(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal) and len(value.as_tuple().digits) <= sys.float_info.dig:
        return float(value)
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _json_key(key: Any) -> str:
    key = json_value(key)
    return key if isinstance(key, str) else _encode(key)


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 and value else f"{value:.3f}"
    if isinstance(value, bytes):
        return value.hex()
    return visible(" ".join((to_json(json_value(value)) if isinstance(value, list | dict) else str(value)).split()))


def cells(series: pl.Series) -> list[str]:
    """The values of a column in a table."""
    import polars as pl

    plain = series.dtype.is_integer() or (series.dtype == pl.String and not series.str.contains(UNEVEN).any())
    return series.cast(pl.String).fill_null("-").to_list() if plain else [cell(value) for value in series.to_list()]


def flatten_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Lists of strings as one string; spaces at the front of tokens are kept apart by the separator."""
    import polars as pl

    lists = [name for name, kind in frame.schema.items() if kind == pl.List(pl.String)]
    return frame.with_columns(pl.col(name).list.eval(pl.element().str.strip_chars()).list.join(" ") for name in lists)


def csv_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame that can be written as CSV: no nested values, controls marked, and no text that a spreadsheet would run.

    A text that begins with =, +, -, @, a tab or a carriage return and is no number gets an apostrophe in front.
    """
    import polars as pl

    made = pl.DataFrame([_csv_series(series) for series in flatten_lists(frame)])
    made.columns = [_harmless(pl.Series([name])).item() for name in made.columns]
    return made


def _csv_series(series: pl.Series) -> pl.Series:
    import polars as pl

    kind = series.dtype
    if kind.is_numeric() or kind in (pl.Date, pl.Datetime, pl.Time, pl.Boolean, pl.Null):
        return series
    if kind == pl.Binary:
        return series.bin.encode("hex")
    if kind.is_nested() or kind in (pl.Object, pl.Duration):
        texts = [None if value is None else cell(value) for value in series.to_list()]
        series = pl.Series(series.name, texts, pl.String)
    return _harmless(series.cast(pl.String))


def _harmless(series: pl.Series) -> pl.Series:
    import polars as pl

    if series.str.contains(CONTROLS).any():
        series = series.str.replace_all(CONTROLS, "\ufffd")
    risky = series.str.contains(FORMULA) & ~series.str.contains(NUMBER)
    if risky.any():
        series = pl.select(pl.when(risky).then("'" + series).otherwise(series).alias(series.name)).to_series()
    return series
