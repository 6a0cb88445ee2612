"""What commands read when a file or folder is named, and the bundled texts that they take when none is."""

from __future__ import annotations

import json

import pytest
from atlas.cli.texts import read_behaviour, read_test_texts, read_unrelated

from atlas.errors import PromptError
from atlas.texts.bundled import CHAT_PAIRS, PAIRS, pair_files
from atlas.texts.pairs import ENDINGS, read_pairs
from atlas.texts.prompts import list_files

ROWS = [{"prompt": "She", "positive": " sang.", "negative": " ate."}, {"positive": " yes", "negative": " no"}]


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of pairs of every kind that JSON has, and one that holds no pairs."""
    (tmp_path / "praise.json").write_text(json.dumps(ROWS))
    (tmp_path / "past.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "notes.txt").write_text("what these files are")
    return tmp_path


def test_a_folder_of_contrast_pairs_gives_the_files_that_can_hold_pairs(folder):
    found = read_test_texts(None, None, None, str(folder)).pairs
    assert list(found) == ["past", "praise"]
    assert found["praise"].rows() == found["past"].rows() == [("She", " sang.", " ate."), ("", " yes", " no")]


def test_a_folder_without_contrast_pairs_is_refused_by_what_it_should_hold(tmp_path):
    (tmp_path / "notes.txt").write_text("no pairs")
    with pytest.raises(PromptError) as error:
        read_test_texts(None, None, None, str(tmp_path))
    assert str(error.value) == f"{tmp_path} holds no {', '.join(ENDINGS)} file: put one per behaviour there"
    with pytest.raises(PromptError, match="name one that holds a file of contrast pairs per behaviour"):
        read_test_texts(None, None, None, str(tmp_path / "notes.txt"))


def test_a_folder_of_topics_gives_the_files_that_can_hold_texts(folder):
    assert list(list_files(folder)) == ["notes", "past"]


def test_bundled_pairs_stand_in_for_files_that_are_not_named():
    texts = read_test_texts(None, None, None, None)
    for name, pairs in texts.pairs.items():
        assert read_behaviour(name, None) == pairs
        others = {row for other, found in texts.pairs.items() if other != name for row in found.rows()}
        assert set(read_unrelated(name, ()).rows()) == others


def test_pairs_of_what_a_chat_model_answers_are_bundled_too_and_stay_among_themselves():
    ours = pair_files(CHAT_PAIRS)
    assert {"formality", "french"} <= set(ours)
    assert read_behaviour("french", None) == read_pairs(ours["french"])
    others = [row for name, file in ours.items() if name != "french" for row in read_pairs(file).rows()]
    assert read_unrelated("french", ()).rows() == others
    assert read_unrelated("unheard of", (), chat=True).rows()[: len(read_pairs(ours["brevity"]).rows())] == (
        read_pairs(ours["brevity"]).rows()
    )
    completions = {row for file in pair_files(PAIRS).values() for row in read_pairs(file).rows()}
    assert set(read_unrelated("unheard of", ()).rows()) == completions
