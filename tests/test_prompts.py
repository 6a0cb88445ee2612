"""Texts come out of every kind of file as they went in, and a bad file says in one line what is wrong with it."""

from __future__ import annotations

import polars as pl
import pytest

from atlas.errors import PromptError
from atlas.prompts import collect_texts, hash_texts, read_texts

TEXTS = ["Rain, again.", 'She said "no".', "Über 20 % — viel", "007"]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_kind(path, column="text"):
    frame = pl.DataFrame({"n": range(len(TEXTS)), column: TEXTS})
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(TEXTS) + "\n")
        case ".csv":
            frame.write_csv(path)
        case ".parquet":
            frame.write_parquet(path)
        case _:
            frame.write_ndjson(path)
    return path


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".ndjson", ".parquet", ".CSV", ".TXT"])
def test_every_kind_of_file_gives_its_texts_in_file_order(tmp_path, ending):
    path = write_kind(tmp_path / f"x{ending.lower()}").rename(tmp_path / f"texts{ending}")
    found = read_texts(path)
    assert found.texts == tuple(TEXTS)
    assert found.sources == (None,) * 4
    assert (found.duplicates, found.empty) == (0, ())


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_the_column_prompt_is_read_when_there_is_no_column_text(tmp_path, ending):
    assert read_texts(write_kind(tmp_path / f"a{ending}", column="prompt")).texts == tuple(TEXTS)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_named_column_wins_over_the_usual_one(tmp_path, ending):
    assert read_texts(write_kind(tmp_path / f"a{ending}"), text_column="n").texts == ("0", "1", "2", "3")


def test_the_column_text_wins_over_the_column_prompt(tmp_path):
    assert read_texts(write(tmp_path / "a.csv", "prompt,text\nno,yes\n")).texts == ("yes",)


def test_the_column_source_says_where_a_text_comes_from(tmp_path):
    path = write(tmp_path / "a.csv", 'text,source\none,here\ntwo,\n"three",there\n')
    assert read_texts(path).sources == ("here", None, "there")


def test_a_source_that_first_appears_late_in_a_file_is_read(tmp_path):
    lines = ['{"text": "t%d", "source": null}' % i for i in range(300)] + ['{"text": "last", "source": "s"}']
    assert read_texts(write(tmp_path / "a.jsonl", "\n".join(lines))).sources[-1] == "s"


def test_numbers_at_the_top_of_a_column_do_not_make_it_a_column_of_numbers(tmp_path):
    rows = [f"{i:04}" for i in range(300)] + ["a word"]
    assert read_texts(write(tmp_path / "a.csv", "\n".join(["text", *rows]))).texts == tuple(rows)


def test_a_quoted_csv_text_may_hold_commas_quotes_and_line_breaks(tmp_path):
    assert read_texts(write(tmp_path / "a.csv", 'text\n"a, ""b""\nc"\n')).texts == ('a, "b"\nc',)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_text(tmp_path, ending, mark):
    lines = {"txt": ["one", "two"], "csv": ["text", "one", "two"], "jsonl": ['{"text": "one"}', '{"text": "two"}']}
    content = mark + "\r\n".join(lines[ending])
    assert read_texts(write(tmp_path / f"a.{ending}", content)).texts == ("one", "two")


def test_only_a_line_break_ends_a_line_of_a_txt_file(tmp_path):
    assert read_texts(write(tmp_path / "a.txt", "one\u2028still one\x0cand still\ntwo\n")).texts == (
        "one\u2028still one\x0cand still",
        "two",
    )


def test_repeated_texts_are_dropped_and_counted_and_the_first_source_kept():
    found = collect_texts(["a", "b", " a ", "a"], ["first", "x", "y", "z"])
    assert (found.texts, found.sources, found.duplicates) == (("a", "b"), ("first", "x"), 2)


def test_empty_rows_are_dropped_and_named_by_number():
    found = collect_texts(["", "a", None, "  \t", "b"])
    assert (found.texts, found.empty, found.duplicates) == (("a", "b"), (1, 3, 4), 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "no text in 0 rows"),
        ("empty.csv", "", "is empty: give at least one text"),
        ("empty.jsonl", "", "is empty: give at least one text"),
        ("header.csv", "text\n", "no text in 0 rows"),
        ("blank.txt", "\n  \n\n", "no text in 3 rows"),
        ("blank.csv", 'text,n\n,1\n" ",2\n', "no text in 2 rows"),
        ("binary.txt", b"\x89PNG\0\0", "is a binary file"),
        ("binary.csv", b"text\na\0b\n", "is a binary file"),
        ("latin.txt", "café".encode("latin-1"), r"is not UTF-8 \(byte 3\)"),
        ("latin.csv", "text\ncafé\n".encode("latin-1"), r"is not UTF-8 \(byte 8\)"),
        ("latin.jsonl", '{"text": "café"}\n'.encode("latin-1"), r"is not UTF-8 \(byte 13\)"),
        ("columns.csv", "a,b\n1,2\n", "unknown text column 'text': known are a, b; name it with --text-column"),
        ("columns.jsonl", '{"a": "x"}\n', "unknown text column 'text': known are a"),
        ("broken.jsonl", "{broken\n", "cannot be read as .jsonl"),
        ("broken.parquet", b"PAR1 this is not", "cannot be read as .parquet"),
        ("lists.jsonl", '{"text": ["a", "b"]}\n', "text"),
        ("letter.docx", "hello", r"unknown ending '\.docx', use one of \.txt, \.csv"),
        ("nothing", "hello", "unknown ending ''"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_one_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(PromptError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "a folder"])
def test_a_file_that_is_not_there_is_named(tmp_path, make):
    make(tmp_path / "a.txt")
    with pytest.raises(PromptError, match=r"no such file .*a\.txt: name a \.txt"):
        read_texts(tmp_path / "a.txt")


def test_a_column_asked_for_by_name_must_be_there_even_when_the_usual_one_is(tmp_path):
    with pytest.raises(PromptError, match="unknown text column 'body': known are text"):
        read_texts(write(tmp_path / "a.csv", "text\nhello\n"), text_column="body")


def test_a_parquet_column_of_bytes_that_are_no_text_is_refused(tmp_path):
    pl.DataFrame({"text": [b"caf\xe9"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(PromptError, match="a.parquet"):
        read_texts(tmp_path / "a.parquet")


def test_the_hash_of_texts_tells_order_and_borders_apart():
    hashes = {hash_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""])}
    assert len(hashes) == 5
    assert hash_texts(["ab", "c"]) == hash_texts(("ab", "c"))
