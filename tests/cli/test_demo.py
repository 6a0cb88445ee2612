"""The bundled model from end to end, and the README's words about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from atlas.cli.main import cli
from atlas.cli.readme import renew
from click.testing import CliRunner

from atlas.texts import bundled
from atlas.texts.prompts import read_texts

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(cli, ["demo", str(folder / "atlas-demo")])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(cli, ["demo", str(folder / "atlas-demo")])
    assert again.stdout == result.stdout
    return result.stdout.replace(f"{folder}/", "")


def blocks(text: str) -> list[str]:
    return re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL)


def test_the_readme_shows_what_the_demo_prints(demo_output):
    """Neurons and their tokens; figures may differ in a digit, and sampled text, on another processor."""
    (shown,) = [block for block in blocks(README.read_text()) if "The neurons that stand for" in block]
    tables = [line for line in shown.splitlines() if "blocks." in line]
    assert len(tables) == 20

    def settled(line: str) -> list[str]:
        return re.sub(r"[01]\.\d{3}", "#", line).split()

    printed = [settled(line) for line in demo_output.splitlines()]
    found = [settled(line) in printed for line in tables]
    assert sum(found) >= 18, [line for line, good in zip(tables, found, strict=True) if not good]


def test_the_generated_parts_of_the_readme_are_current():
    assert renew(README.read_text()) == README.read_text()


def test_the_readme_names_the_test_command_that_ci_runs():
    command = "pip install -c constraints.txt -e '.[test]' && pytest"
    assert command in README.read_text()
    assert (
        command.split(" && ")[0].replace("pip install", "pip install --quiet")
        in (README.parent / ".ci/run").read_text()
    )


def test_the_bundled_prompts_and_topics_are_as_the_data_page_says():
    prompts = read_texts(bundled.PROMPTS)
    assert (len(prompts.texts), prompts.duplicates, len(set(prompts.sources))) == (3360, 0, 48)
    kinds = {kind: bundled.read_topics(kind) for kind in ("6", "20", "held_out")}
    everyday = read_texts(bundled.UNALIGNED).texts
    assert len(everyday) == 120
    for name in kinds["20"]:
        sets = [kinds[kind][name].texts for kind in kinds]
        assert [len(texts) for texts in sets] == [6, 20, 24]
        assert len({*sets[0], *sets[1], *sets[2]} - {*prompts.texts, *everyday}) == 50
