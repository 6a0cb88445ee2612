"""Whatever a value is, each format shows it: JSON that strict parsers take, CSV of one cell each, tables no terminal obeys."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json

import polars as pl
import pytest
from atlas.cli.output import echo, print_batches, print_frame, print_table

from atlas.errors import AtlasError, StoreError, UnknownName, visible
from atlas.store.cells import cell, json_rows

ODD = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\u202egpj.exe\u2066\x7f"


def refuse(token):
    raise ValueError(f"{token} is no JSON")


def strictly(text):
    """The value of a JSON text, by a parser that knows no NaN."""
    return json.loads(text, parse_constant=refuse)


def printed(capsys, frame, style):
    print_frame(frame, style)
    return capsys.readouterr().out


FRAME = pl.DataFrame(
    {
        "nested": [{"a": [1.5, float("nan")], "b": {"c": b"\xff", "d": None}}],
        "numbers": [[1.0, float("inf"), None]],
        "words": [[" one", "two"]],
        "bytes": [b"\x00\xab"],
        "large": pl.Series([2**100], dtype=pl.Int128),
        "exact": [decimal.Decimal("1.50")],
        "nan": [float("nan")],
        "infinity": [float("-inf")],
        "at": [dt.datetime(2026, 1, 2, 3, 4, 5)],
        "day": [dt.date(2026, 1, 2)],
        "span": [dt.timedelta(days=1, seconds=2)],
        "yes": [True],
        "nothing": [None],
        "text": ['a "quoted", text\nof two lines'],
    }
)


def test_json_of_every_type_is_taken_by_a_strict_parser(capsys):
    [row] = strictly(printed(capsys, FRAME, "json"))
    assert row["nested"] == {"a": [1.5, None], "b": {"c": "ff", "d": None}}
    assert row["numbers"] == [1.0, None, None]
    assert row["words"] == [" one", "two"]
    assert (row["bytes"], row["large"], row["exact"]) == ("00ab", 2**100, 1.5)
    assert (row["nan"], row["infinity"], row["nothing"]) == (None, None, None)
    assert (row["at"], row["yes"]) == ("2026-01-02 03:04:05", True)
    assert row["text"] == FRAME["text"][0]


def test_csv_has_one_cell_per_value_whatever_its_type(capsys):
    names, row = csv.reader(io.StringIO(printed(capsys, FRAME, "csv")))
    cells = dict(zip(names, row, strict=True))
    assert names == FRAME.columns
    assert strictly(cells["nested"]) == {"a": [1.5, None], "b": {"c": "ff", "d": None}}
    assert strictly(cells["numbers"]) == [1.0, None, None]
    assert (cells["words"], cells["bytes"], cells["large"]) == ("one two", "00ab", str(2**100))
    assert (cells["nan"], cells["infinity"], cells["nothing"]) == ("NaN", "-inf", "")
    assert cells["text"] == FRAME["text"][0]


def test_a_table_has_a_line_per_row_whatever_the_types(capsys):
    lines = printed(capsys, FRAME, "table").splitlines()
    assert len(lines) == 2
    assert '{"a":[1.5,null],"b":{"c":"ff","d":null}}' in lines[1]
    assert 'a "quoted", text of two lines' in lines[1]


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_no_format_prints_what_a_terminal_obeys(capsys, style):
    frame = pl.DataFrame({"name": [ODD], "names": [[ODD, "x"]], "of": [{ODD: ODD}], ODD: [1]})
    out = printed(capsys, frame, style)
    assert not set(out) & set(ODD) - set("gpj.exeOWNED]0;[2J31m")
    if style == "json":
        assert strictly(out)[0]["name"] == ODD


def test_lines_and_errors_show_names_without_obeying_them(capsys):
    echo(f"topic {ODD}\nnext\rline")
    echo(f"topic {ODD}", err=True)
    out, err = capsys.readouterr()
    assert out == f"topic {visible(ODD)}\nnext line\n"
    assert "\x1b" not in err
    for error in (AtlasError(ODD), StoreError(f"no {ODD}"), UnknownName("topic", "x", [ODD, "a\nb\rc"])):
        assert not {"\x1b", "\n", "\r", "\x9b", "\u202e"} & set(str(error))
    assert "a b c" in str(UnknownName("topic", "x", ["a\nb\rc"]))


def test_a_message_ends_somewhere():
    assert len(str(AtlasError("x" * 100_000))) < 3000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("-1.5", "-1.5"),
        ("+3e-7", "+3e-7"),
        ("- item", "'- item"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_csv_text_that_a_spreadsheet_would_run_gets_an_apostrophe(capsys, text, shown):
    out = printed(capsys, pl.DataFrame({"x": [text], "n": [-1], "l": [[text]]}), "csv")
    _, row = csv.reader(io.StringIO(out))
    assert row[:2] == [shown, "-1"]
    assert row[2] == ("'" + text.strip() if shown != text and text.strip()[0] in "=+-@" else text.strip())
    assert strictly(printed(capsys, pl.DataFrame({"x": [text]}), "json")) == [{"x": text}]


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_frames_are_printed_as_if_they_were_one(capsys, style):
    frame = pl.DataFrame({"n": range(10), "text": [f"t{i}" for i in range(10)]})
    whole = printed(capsys, frame, style)
    print_batches([frame[:3], frame[3:3], frame[3:]], style)
    assert capsys.readouterr().out == whole
    print_batches([frame[:0]], style)
    assert capsys.readouterr().out == {"table": "n  text\n(no rows)\n", "csv": "n,text\n", "json": "[]\n"}[style]


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_rows_beyond_the_limit_are_left_out_and_said(capsys, style):
    frame = pl.DataFrame({"n": range(10)})
    print_batches([frame[:3], frame[3:]], style, limit=4)
    out, err = capsys.readouterr()
    assert out == printed(capsys, frame[:4], style)
    assert err == "the first 4 rows are shown, there are more: --limit 0 for all, or an ORDER BY\n"
    print_batches([frame[:3], frame[3:]], style, limit=10)
    assert capsys.readouterr() == (printed(capsys, frame, style), "")


def test_later_frames_keep_to_the_columns_of_the_first(capsys):
    print_batches([pl.DataFrame({"a": ["xx"], "b": [1]}), pl.DataFrame({"a": ["longer"], "b": [22]})], "table")
    assert capsys.readouterr().out == "a   b\nxx  1\nlonger  22\n"


def test_numbers_stand_at_the_right_and_small_ones_keep_their_digits(capsys):
    print_table(pl.DataFrame({"n": [1, 20], "x": [0.5, 0.00012]}))
    assert capsys.readouterr().out == " n        x\n 1    0.500\n20  0.00012\n"
    assert cell(None) == "-"


def test_keys_that_are_no_texts_become_texts():
    frame = pl.DataFrame({"m": pl.Series([{"a": 1}], dtype=pl.Struct({"a": pl.Int64}))})
    assert strictly(next(json_rows(frame))) == {"m": {"a": 1}}


def test_simple_columns_are_json_as_all_others_are():
    frame = pl.DataFrame(
        {
            "s": ["a\n\u2028" + ODD, None, ""],
            "x": [float("nan"), 1e300, -0.5],
            "y": pl.Series([0.1, float("inf"), None], dtype=pl.Float32),
            "n": pl.Series([2**64 - 1, 0, None], dtype=pl.UInt64),
            "b": [True, None, False],
        }
    )
    quick = [strictly(row) for row in json_rows(frame)]
    slow = [strictly(row) for row in json_rows(frame.with_columns(l=pl.lit([1])))]
    assert [{**row, "l": [1]} for row in quick] == [{**row, "y": row["y"] and pytest.approx(row["y"])} for row in slow]
    assert quick[0]["x"] is None and quick[0]["s"] == frame["s"][0]
    assert list(json_rows(frame[:0])) == []
