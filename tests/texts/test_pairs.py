"""Contrast pairs come out of every kind of file as they went in, and a bad file says in one line what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter

import polars as pl
import pytest

from atlas.errors import PromptError
from atlas.texts import bundled
from atlas.texts.pairs import FORMATS, PairSet, collect_pairs, join_texts, pair_texts, read_pairs, split_pairs

POCKET, SMOLLM2 = (
    sorted((folder / "pairs").glob("*.jsonl")) for folder in (bundled.FOLDER, bundled.FOLDER.parent / "smollm2")
)
BUNDLED = [*POCKET, *SMOLLM2]
ROWS = [("Is it?\n (A) yes\n (B) no", " (A)", " (B)"), ("Was it?", " (B)", " (A)"), ('"Über", 5 %', " Yes", " No")]


def write(path, columns, rows=ROWS):
    frame = pl.DataFrame(rows, schema=list(columns), orient="row").with_columns(other=pl.lit(1))
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".parquet":
            frame.write_parquet(path)
        case ".json":
            path.write_text(json.dumps(frame.to_dicts(), indent=1))
        case _:
            frame.write_ndjson(path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("columns", FORMATS, ids=lambda columns: columns[1])
def test_every_format_in_every_kind_of_file_gives_its_pairs_in_file_order(tmp_path, columns, ending):
    found = read_pairs(write(tmp_path / f"pairs{ending}", columns))
    assert found.rows() == ROWS
    assert len(found) == 3 and found.duplicates == 0


def test_lines_of_json_may_stand_in_a_json_file_too(tmp_path):
    path = write(tmp_path / "pairs.jsonl", FORMATS[0]).rename(tmp_path / "pairs.json")
    assert read_pairs(path).rows() == ROWS


def test_positive_and_negative_need_no_prompt(tmp_path):
    path = write(tmp_path / "pairs.csv", ("positive", "negative"), [("good", "bad")])
    assert read_pairs(path).rows() == [("", "good", "bad")]


def test_repeated_pairs_are_dropped_and_counted():
    assert collect_pairs([*ROWS, ROWS[0]]) == PairSet(*zip(*ROWS, strict=True), duplicates=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "is empty"),
        ("header.csv", "prompt,positive,negative\n", "no pair in it"),
        ("text.csv", "text,label\na,1\n", "has columns text, label: contrast pairs need question, answer_matching_beh"),
        ("half.csv", "question,matching\na,b\n", "has columns question, matching: contrast pairs need"),
        ("no_question.csv", "matching,not_matching\na,b\n", "has columns matching, not_matching: contrast pairs need"),
        ("blank.csv", "positive,negative\na,b\n , c\n", "pair 2 has no positive text"),
        ("missing.jsonl", '{"positive": "a", "negative": null}', "pair 1 has no negative text"),
        ("same.csv", "positive,negative\na,b\nc,c\n", "both sides of pair 2 are the same text"),
        ("list.jsonl", '{"positive": ["a"], "negative": ["b"]}', "column 'positive' holds lists"),
        ("broken.json", '[{"positive": "a"', "cannot be read as .json"),
        ("pairs.txt", "a\tb\n", "unknown ending '.txt', use one of .jsonl"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PromptError, match=message) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PromptError, match="no such file .*pairs.jsonl: name a .jsonl"):
        read_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(("share", "held"), [(0.5, 20), (0.25, 10), (1, 40), (0.01, 0), (0.34, 13)])
def test_the_asked_share_of_the_pairs_is_held_out_in_file_order(share, held):
    pairs = collect_pairs([(f"p{i}", "a", "b") for i in range(40)])
    made, out = (part.prompts if part else () for part in split_pairs(pairs, share))
    assert len(out) == held
    assert [p for p in pairs.prompts if p in out] == list(out)
    assert [p for p in pairs.prompts if p not in out] == list(made)


def test_what_is_held_out_depends_on_no_place_in_the_file():
    rows = [(f"Is {i} a prime?", " (A)", " (B)") if i % 2 else (f"Is {i} a prime?", " (B)", " (A)") for i in range(40)]
    made, out = split_pairs(collect_pairs(rows), 0.5)
    assert set(split_pairs(collect_pairs(rows[::-1]), 0.5)[1].prompts) == set(out.prompts)
    assert {" (A)", " (B)"} == set(made.positives) == set(out.positives)  # every second pair would all be (A)


@pytest.mark.parametrize(
    ("prompt", "completion", "text"),
    [("a", "b", "a b"), ("a", " b", "a b"), ("a ", "b", "a b"), ("a\n", "b", "a\nb"), ("", "b", "b")],
)
def test_a_space_is_put_where_neither_side_brings_one(prompt, completion, text):
    assert join_texts(prompt, completion) == text


def test_texts_are_paired_without_a_prompt_and_the_fewer_ones_come_again():
    found = pair_texts(["a", "b"], ["x", "y", "z"])
    assert found.rows() == [("", "a", "x"), ("", "b", "y"), ("", "a", "z")]
    assert pair_texts(["a", "b", "c"], ["x"]).positives == ("a", "b", "c")
    with pytest.raises(PromptError, match="there is no negative text to make pairs of"):
        pair_texts(["a"], [])


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_bundled_pairs_can_be_read_and_are_many(path):
    found = read_pairs(path)
    assert len(found) >= 60 and found.duplicates == 0
    assert len(set(found.prompts)) == len(found), "no prompt is on both sides of a split"


@pytest.mark.parametrize("path", SMOLLM2, ids=lambda path: path.stem)
def test_every_pair_for_the_chat_model_is_a_message_and_two_whole_answers(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 72 and {tuple(row) for row in rows} == {("prompt", "positive", "negative")}
    for row in rows:
        for text in row.values():
            assert text == " ".join(text.split()) and text[-1] in ".!?", (
                "one line that ends a sentence, nothing around it"
            )


def test_no_text_of_the_pairs_for_the_chat_model_stands_twice():
    texts = [text for path in SMOLLM2 for row in read_pairs(path).rows() for text in row]
    others = {text.strip() for path in POCKET for row in read_pairs(path).rows() for text in row}
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    assert others & set(texts) == set()


def test_there_are_bundled_pairs_of_several_behaviours_for_each_model():
    assert {path.stem for path in POCKET} >= {"past", "praise", "question"}
    assert {path.stem for path in SMOLLM2} >= {"brevity", "formality", "french", "hedging", "sycophancy"}
