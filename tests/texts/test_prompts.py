"""Texts come out of every kind of file as they went in, and a bad file says in one line what is wrong with it."""

from __future__ import annotations

import random

import polars as pl
import pytest

from atlas.errors import PromptError
from atlas.texts.pairs import collect_pairs, read_pairs
from atlas.texts.prompts import TextSet, collect_texts, hash_texts, read_texts

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
        ("objects.jsonl", '{"text": {"role": "user", "content": "hi"}}\n', "column 'text' holds objects and no texts"),
        ("mixed.jsonl", '{"text": "a"}\n{"text": {"b": 1}}\n', "column 'text' holds objects and no texts"),
        (
            "mixed.json.jsonl",
            '[{"text": "a"}, {"text": [1]}, {"text": null}]',
            "column 'text' holds lists and no texts",
        ),
        ("late.jsonl", '{"text": "a"}\n' * 5000 + '{"text": []}\n', "column 'text' holds lists and no texts"),
        ("source.jsonl", '{"text": "a", "source": {"b": 1}}\n', "column 'source' holds objects and no texts"),
        ("values.jsonl", '"a"\n"b"\n', "value 1 is 'a' and no JSON object"),
        ("lists.jsonl", '[["a"]]', "value 1 is a JSON array and no JSON object"),
        ("nan.jsonl", '{"text": NaN}\n', "cannot be read as .jsonl"),
        ("nested.jsonl", '{"text": ' + "[" * 100_000, "cannot be read as .jsonl"),
        ("bomb.jsonl", "[" * 100_000 + "]" * 100_000, "cannot be read as .jsonl"),
        ("half.jsonl", '{"text": "a\\ud800"}\n', r"row 1 holds a character that no UTF-8 text has \('.ud800'\)"),
        ("nul.jsonl", '{"text": "a\\u0000b"}\n', r"row 1 holds a character that no UTF-8 text has \('.x00'\)"),
        ("wide.txt", "one\ntwo\n".encode("utf-16"), "is not UTF-8 but UTF-16: save it as UTF-8"),
        ("names.csv", "a\x1b[2J,b\n1,2\n", "unknown text column 'text': known are"),
        ("names.jsonl", '{"a\\r\\nb": 1}\n', "known are a  b"),
        ("zero.txt", "\u200b\n\ufeff\n\u3164\u2800\n", "no text in 3 rows"),
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


@pytest.mark.parametrize(
    "values",
    [
        [{"role": "user"}],
        [["a", "b"]],
        [[{"a": [1]}]],
        pl.Series([[1.0, 2.0]], dtype=pl.Array(pl.Float64, 2)),
        [b"caf\xe9"],
    ],
    ids=["structs", "lists", "lists of structs", "arrays", "bytes"],
)
def test_a_parquet_column_of_anything_but_texts_is_refused(tmp_path, values):
    pl.DataFrame({"text": values, "positive": values, "negative": values}).write_parquet(tmp_path / "a.parquet")
    for read in (read_texts, read_pairs):
        with pytest.raises(PromptError, match=r"a\.parquet: column '(text|positive)' holds .* and no texts"):
            read(tmp_path / "a.parquet")


def test_a_parquet_column_that_is_text_in_other_types_is_read(tmp_path):
    for dtype in (pl.Categorical, pl.Enum(["a", "b"]), pl.Binary):
        pl.DataFrame({"text": pl.Series(["a", "b"]).cast(dtype)}).write_parquet(tmp_path / "a.parquet")
        assert read_texts(tmp_path / "a.parquet").texts == ("a", "b")


def test_numbers_in_json_stay_as_they_are_written(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": 1}\n{"text": 1.50}\n{"text": "007"}\n{"text": true}\n{"text": 1e400}')
    assert read_texts(path).texts == ("1", "1.50", "007", "true", "1e400")


def test_json_may_stand_over_several_lines_and_lack_a_column_in_some_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text":\n "a"}\n\n {"n": 1}\r\n{"text": "b\u2028c"}\n')
    assert read_texts(path) == collect_texts(["a", None, "b\u2028c"])


def test_the_name_of_a_folder_is_no_column_of_a_parquet_file(tmp_path):
    (tmp_path / "text=other").mkdir()
    pl.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "text=other" / "a.parquet")
    assert read_texts(tmp_path / "text=other" / "a.parquet").texts == ("a",)


@pytest.mark.parametrize("blank", ["\u200b", "\u200d\u2060", "\ufeff", "\u3164", "\u2800 \u00ad", "\x01\x7f", "\ufe0f"])
def test_a_text_that_shows_nothing_is_empty(blank):
    assert collect_texts(["a", blank]).empty == (2,)
    with pytest.raises(PromptError, match="pair 1 has no positive text"):
        collect_pairs([("", blank, "b")])


@pytest.mark.parametrize("text", ["\u0301", "👨\u200d👩", "\u200bx", "日本", "-", "\U000f0000"])
def test_a_text_that_shows_anything_is_kept(text):
    assert collect_texts([text]).texts == (text.strip(),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([1], "row 1 is 1, which is no text"),
        (["a", b"b"], "row 2 is b'b', which is no text"),
        ([["a"]], "row 1 is a JSON array, which is no text"),
        ([float("nan")], "row 1 is nan, which is no text"),
        (["a\ud800"], r"row 1 holds a character that no UTF-8 text has \('.ud800'\)"),
        (["a", "\0"], "row 2 holds a character that no UTF-8 text has"),
        (b"ab", "give a list of texts, not b'ab'"),
        (5, "give a list of texts, not 5"),
        (None, "give a list of texts, not None"),
        ([], "no text in 0 rows"),
        (iter(()), "no text in 0 rows"),
    ],
)
def test_what_is_no_text_in_python_is_said_in_one_line(texts, message):
    with pytest.raises(PromptError, match=message):
        collect_texts(texts)
    with pytest.raises(PromptError, match="give|is no text|holds a character|give at least one"):
        collect_pairs([("", text, "other") for text in texts] if isinstance(texts, list) else texts or [])


@pytest.mark.parametrize("path", ["x" * 5000 + ".txt", "a\0b.txt", "/dev/null.txt", "\ud800.txt"])
def test_a_name_that_no_file_has_is_said(path):
    with pytest.raises(PromptError, match="no such file"):
        read_texts(path)


def test_a_file_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PromptError, match=r"cannot be read \(Permission denied\)"):
        read_texts(write_kind(tmp_path / "a.csv"))


def mutate(data, rng):
    """Bytes with a few of them changed, cut out, doubled or swapped for what parsers mind."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[place - 1] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randint(1, 20)]
        elif kind == 2:
            data[place:place] = data[place : place + rng.randint(1, 40)]
        elif kind == 3:
            data[place:place] = rng.choice(TOKENS)
        else:
            data = data[:place] if rng.random() < 0.2 else data[place // 8 :]
    return bytes(data)


TOKENS = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"\r", b"\n", b",", b"[", b"{", b"}", b"\\ud800", b"null", b"NaN",
    b"1e999", b"\xe2\x80\xae", b"\x1b[2J", b'{"text": {}}', b'{"text": [1]}', b"PAR1", b"\xed\xa0\x80", b"9" * 400,
]  # fmt: skip


def fuzz_files(folder, rounds, seed):
    """(read, refused) of so many mutated prompt and pair files of every kind; a raw error ends it."""
    rng = random.Random(seed)
    frame = pl.DataFrame(
        {"text": TEXTS, "positive": TEXTS, "negative": TEXTS[::-1], "n": range(4), "l": [[1], [], [2, 3], None]}
    )
    sound = {}
    for ending in (".txt", ".csv", ".jsonl", ".json", ".parquet"):
        path = folder / f"sound{ending}"
        match ending:
            case ".txt":
                path.write_text("\n".join(TEXTS))
            case ".csv":
                frame.drop("l").write_csv(path)
            case ".json":
                frame.write_json(path)
            case ".parquet":
                frame.write_parquet(path, compression=rng.choice(["zstd", "snappy", "uncompressed"]))
            case _:
                frame.write_ndjson(path)
        sound[ending] = path.read_bytes()
    counts = [0, 0]
    for _ in range(rounds):
        ending = rng.choice(list(sound))
        read = read_pairs if ending == ".json" or (ending != ".txt" and rng.random() < 0.5) else read_texts
        path = write(folder / f"x{ending}", mutate(sound[ending], rng))
        try:
            found = read(path)
            columns = (
                (found.texts,) if isinstance(found, TextSet) else (found.prompts, found.positives, found.negatives)
            )
            assert all(isinstance(text, str) and text.encode() and "\0" not in text for text in columns[-1])
            counts[0] += 1
        except PromptError as error:
            assert "\n" not in str(error) and len(str(error)) < 2100
            counts[1] += 1
    return tuple(counts)


def test_no_mutated_file_gives_a_raw_error(tmp_path, capfd):
    read, refused = fuzz_files(tmp_path, 600, seed=0)
    assert read + refused == 600 and min(read, refused) > 60
    assert "panicked" not in capfd.readouterr().err


def test_the_hash_of_texts_tells_order_and_borders_apart():
    hashes = {hash_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""])}
    assert len(hashes) == 5
    assert hash_texts(["ab", "c"]) == hash_texts(("ab", "c"))
