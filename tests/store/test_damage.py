"""A damaged atlas file: each word of ours answers as the whole file would, or says in one line that it is damaged."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import polars as pl
import pytest
import tiny

from atlas.api import Atlas
from atlas.errors import AtlasError
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

BLOCK = 4096
RUNS = 25  # per kind of damage; a long run takes more (PYTHONPATH=tests/shared python tests/store/test_damage.py FILE RUNS)


def cut(data, chance):
    """A file whose end is missing."""
    return data[: chance.randrange(len(data))]


def flip(data, chance):
    """A few bits the other way."""
    for _ in range(chance.choice((1, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def flip_head(data, chance):
    """A few bits of the headers, which say where everything is."""
    for _ in range(chance.choice((1, 2, 8))):
        data[chance.randrange(3 * BLOCK)] ^= 1 << chance.randrange(8)
    return data


def clear(data, chance):
    """Zeros over a stretch, as a disk that failed leaves it."""
    start, length = chance.randrange(len(data)), chance.choice((1, 512, BLOCK, 64 * BLOCK))
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def swap(data, chance):
    """Two blocks in each other's place."""
    one, other = (chance.randrange(len(data) // BLOCK) * BLOCK for _ in range(2))
    data[one : one + BLOCK], data[other : other + BLOCK] = data[other : other + BLOCK], data[one : one + BLOCK]
    return data


DAMAGE = (cut, flip, flip_head, clear, swap)
QUESTIONS = {
    "info": lambda a: [a.info()[key] for key in ("state", "prompts", "rows", "topics")],
    "top": lambda a: a.top("sea"),
    "why": lambda a: a.why("sea", 0, sae_id=0),
    "examples": lambda a: a.examples(0),
    "activations": lambda a: a.sql("select count(*), sum(act_sum), sum(hash(prompt_id)) from activations"),
    "texts": lambda a: a.sql("select sum(hash(text)) as texts from prompts"),
}


def answer(path):
    """What every question gives: a text, or the one line of an AtlasError."""
    found = {}
    for name, question in QUESTIONS.items():
        try:
            with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=1000):
                found[name] = str(question(Atlas(Store(path))))
        except AtlasError as error:
            assert "\n" not in str(error)
            found[name] = error
    return found


def compare(found, expected):
    """How many questions were refused; AssertionError for an answer that the whole file does not give."""
    for name, text in found.items():
        assert isinstance(text, AtlasError) or text == expected[name], name
    return sum(isinstance(text, AtlasError) for text in found.values())


@pytest.fixture(scope="module")
def whole(built_atlas, tmp_path_factory, encoder):
    path = Path(shutil.copy(built_atlas, tmp_path_factory.mktemp("whole") / "whole.atlas"))
    config = ScoringConfig(min_support=5, null_topics=3)
    score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=lambda t: embed_frame(encoder, t), config=config)
    return path


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_file_gives_right_answers_or_one_line(damage, whole, tmp_path):
    expected, refused = answer(whole), 0
    assert not any(isinstance(text, AtlasError) for text in expected.values())
    for seed in range(RUNS // len(DAMAGE)):
        path = tmp_path / f"{seed}.atlas"
        path.write_bytes(damage(bytearray(whole.read_bytes()), random.Random(seed)))
        refused += compare(answer(path), expected)
    assert refused


def main(path, runs):
    """A long run over a file: counts of what was answered, refused, and neither."""
    import collections
    import sys
    import tempfile
    import traceback

    whole, counts, raw = Path(path), collections.Counter(), collections.Counter()
    expected, data = answer(whole), whole.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(runs)):
            damage = DAMAGE[seed % len(DAMAGE)]
            path = Path(folder) / "x.atlas"
            path.write_bytes(damage(bytearray(data), random.Random(seed)))
            try:
                refused = compare(answer(path), expected)
                counts["files with an answer refused" if refused else "files answered whole"] += 1
            except AssertionError as error:
                counts["wrong answers"] += 1
                raw[f"{damage.__name__} {seed} {error}"[:100]] += 1
            except Exception as error:
                counts["raw errors"] += 1
                frame = traceback.extract_tb(error.__traceback__)[-1]
                raw[f"{damage.__name__} {type(error).__name__} {' '.join(str(error).split())[:90]} {frame.name}"] += 1
    sys.stdout.write(f"{dict(counts)}\n" + "".join(f"{n} {what}\n" for what, n in raw.most_common(40)))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
