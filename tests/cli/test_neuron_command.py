"""atlas neuron: the same figures as in Python, in the terminal, as JSON, and as a page."""

from __future__ import annotations

import json
import shutil

import pytest
from atlas.cli.neuron import marked, sparkline
from command import run

import atlas
from atlas.cards.neuron import NOT_RUN


@pytest.fixture(scope="module")
def file(built_atlas, tmp_path_factory):
    """An atlas in which neuron 0 was looked at."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("neuron") / "x.atlas")
    atlas.open(path).neuron(0, sae_id=0)
    return path


def test_a_table_says_the_most_of_every_part(file):
    code, stdout, stderr = run("neuron", file, "0", "--sae-id", "residual", "--stored")
    assert (code, stderr) == (0, "")
    found = atlas.open(file).neuron(0, sae_id=0, live=False)
    first, second = stdout.splitlines()[:2]
    assert first == "neuron 0 of residual"
    assert second.startswith(f"fires on {found.row['support']} of 60 prompts and ")
    titles = [line for line in stdout.splitlines() if line.endswith(":") and " " not in line[:1]]
    assert titles == [
        "strongest prompts:", "weaker prompts, by range:", "prompts at random:", "near in meaning:", "fire together:",
    ]  # fmt: skip
    assert f"promoted: {found.written['token'][0].strip()}" in stdout


def test_json_is_a_row_of_facts_and_a_part_is_a_frame(file):
    code, stdout, _ = run("neuron", file, "0", "--sae-id", "0", "--stored", "--format", "json")
    assert code == 0
    [row] = json.loads(stdout)
    assert (row["neuron"], row["sae_id"], row["d_sae"]) == (0, "residual", 24)
    code, stdout, _ = run("neuron", file, "0", "--sae-id", "0", "--stored", "--part", "samples", "--format", "json")
    rows = json.loads(stdout)
    assert len(rows) == atlas.open(file).neuron(0, sae_id=0, live=False).samples.height
    assert len(rows[0]["tokens"]) == len(rows[0]["activations"])


def test_a_page_is_written_beside(file, tmp_path):
    code, _, stderr = run("neuron", file, "0", "--sae-id", "0", "--stored", "--html", tmp_path / "x.html")
    assert (code, stderr) == (0, f"{tmp_path / 'x.html'}: written\n")
    assert "<article" in (tmp_path / "x.html").read_text()


def test_what_is_not_shown_is_said_on_stderr(file):
    code, stdout, stderr = run("neuron", file, "1", "--sae-id", "0", "--stored")
    assert code == 0
    assert stderr == f"{NOT_RUN}\n"
    assert "«" in stdout


def test_a_dead_neuron_and_one_that_is_not_there(file):
    assert (
        "dead: it fired on none of the 60 reference prompts" in run("neuron", file, "4", "--sae-id", "0", "--stored")[1]
    )
    code, _, stderr = run("neuron", file, "24", "--sae-id", "0")
    assert (code, stderr) == (1, "Error: unknown neuron '24': known are 0 to 23\n")
    code, _, stderr = run("neuron", file, "0")
    assert code == 1
    assert "2 SAEs to choose from, 0 (residual), 1 (heads)" in stderr


def test_the_strongest_token_is_marked_without_its_space():
    assert marked("a b c", ["<s>", "a", " b", " c"], [None, 1.0, 3.0, 2.0]) == "a «b» c"
    assert marked("a b", None, None) == "a b"


def test_a_histogram_is_a_line():
    assert sparkline([0, 1, 70, 35]) == " ▁█▅"
