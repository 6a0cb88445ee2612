"""The bundled model from end to end, and the README's words about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from atlas.cli.main import cli
from click.testing import CliRunner
from pages import shown_commands

from atlas.texts import bundled
from atlas.texts.prompts import read_texts

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo_output(demo_folder):
    result = CliRunner().invoke(cli, ["demo", str(demo_folder / "atlas-demo")])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(cli, ["demo", str(demo_folder / "atlas-demo")])
    assert again.stdout == result.stdout
    return result.stdout.replace(f"{demo_folder}/", "")


def blocks(text: str, kind: str = r"\w*") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def settled(line: str) -> list[str]:
    """A line's words without what may differ on another processor: digits of figures, and the text that is sampled."""
    return [] if line.startswith("    ") else re.sub(r"[01]\.\d{2,3}|4,236,\d{3}", "#", line).split()


def test_the_readme_shows_what_the_demo_prints(demo_output):
    """What is shown is all printed, in this order; `...` stands for what was cut."""
    (shown,) = [block for block in blocks(README.read_text()) if "The neurons that stand for" in block]
    lines = [settled(line) for line in shown.splitlines() if line != "..."]
    assert sum("blocks." in line for line in shown.splitlines()) >= 4
    assert sum("contamination" in line for line in shown.splitlines()) >= 3
    printed = iter([settled(line) for line in demo_output.splitlines()])
    missing = next((line for line in lines if line not in printed), None)
    assert missing is None


def test_what_the_readme_shows_in_python_and_in_the_shell_runs(demo_output, demo_folder, monkeypatch, capsys):
    """Against a copy of the demo's atlas, and in the order of the page."""
    shutil.copytree(demo_folder / "atlas-demo", demo_folder / "here/atlas-demo")
    (demo_folder / "here/data").symlink_to(README.parent / "data")
    monkeypatch.chdir(demo_folder / "here")
    pages = (README, README.parent / "atlas/scoring/README.md")
    ran = 0
    for page in pages:
        for code in blocks(page.read_text(), "python"):
            exec(compile(code, str(page), "exec"), {})
            ran += 1
        for words in shown_commands(page.read_text()):
            if "atlas-demo/pocket.atlas" in words:
                result = CliRunner().invoke(cli, words)
                assert result.exit_code == 0, (words, result.output)
                assert result.stdout
                ran += 1
    assert ran == 9
    assert re.search(r"My friend told me.*\[0\.\d+", capsys.readouterr().out, re.DOTALL)


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
