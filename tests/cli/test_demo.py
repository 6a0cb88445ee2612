"""The bundled model from end to end, and the README's words about it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from atlas.cli.demo import SHOWS, show_neurons, show_texts
from atlas.cli.main import cli
from click.testing import CliRunner
from pages import shown_commands

import atlas
from atlas.progress import silent
from atlas.texts import bundled
from atlas.texts.prompts import read_texts

README = Path(__file__).parents[2] / "README.md"
DATA = README.parent / "data"


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


def demos_shown(page: Path) -> list[str]:
    """What a page shows of demos."""
    return [block for block in blocks(page.read_text()) if "The neurons that stand for" in block]


def settled(line: str) -> list[str]:
    """A line's words without what may differ on another processor: digits of figures, and the text that is sampled."""
    return [] if line.startswith("    ") else re.sub(r"-?\d+\.\d{2,3}|4,236,\d{3}", "#", line).split()


@pytest.mark.parametrize("name", ["pocket", "smollm2"])
def test_a_page_shows_what_the_demo_prints(name, demo_output):
    """What is shown is all printed, in this order; `...` stands for what was cut.

    The demo of the real model takes minutes and weights that are not here: what it printed once stands whole beside it.
    """
    page, printed = (DATA / "pocket/README.md", demo_output)
    if name == "smollm2":
        page, (printed,) = README, demos_shown(DATA / "smollm2/README.md")
    (shown,) = demos_shown(page)
    lines = [settled(line) for line in shown.splitlines() if line != "..."]
    assert sum("blocks." in line for line in shown.splitlines()) >= 4
    assert sum("contamination" in line for line in shown.splitlines()) >= 3
    openings = (*SHOWS[name].prompts, *SHOWS[name].questions)
    assert len(re.findall(r"^(?:\S.* \.\.\.|\S.*\?)\n  original \(", printed, re.MULTILINE)) == len(openings)
    all_printed = iter([settled(line) for line in printed.splitlines()])
    missing = next((line for line in lines if line not in all_printed), None)
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
    assert ran == 13
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


def test_the_demo_of_a_real_model_shows_where_neurons_fire_and_what_steering_costs(demo_output, demo_folder, capsys):
    """On the small model: what is shown differs between the two demos, not how."""
    shown = replace(SHOWS["smollm2"], topics=("medicine",), steered=("medicine", "music"), questions=())
    opened = atlas.open(demo_folder / "atlas-demo/pocket.atlas")
    show_neurons(opened, "medicine", shown)
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2 * shown.neurons + 3
    assert all("«" in line and "»" in line for line in listed[3:])
    show_texts(opened, shown, silent)
    printed = capsys.readouterr().out
    prices = re.findall(
        r"add towards (\w+) at strength 0\.08 \(contamination 0\.\d\d, (\d+\.\d\d) times the perplexity\)", printed
    )
    assert [topic for topic, _ in prices] == ["medicine", "music"]
    assert all(0.2 < float(price) < 20 for _, price in prices)
    assert re.search(r"original \(contamination 0\.\d\d\):", printed)


def test_a_demo_ends_with_the_page_on_its_atlas(demo_output):
    assert demo_output.splitlines()[-1] == "  atlas explore atlas-demo/pocket.atlas"
    assert all(show.next[-1] == "atlas explore {path}" for show in SHOWS.values())


def test_a_demo_of_two_folders_is_refused():
    for words in (["here", "there"], ["smollm2", "here", "there"]):
        result = CliRunner().invoke(cli, ["demo", *words])
        assert result.exit_code == 2
        assert "give a folder, or smollm2 and a folder" in result.output


def test_half_of_each_subject_is_left_to_test_what_the_neurons_of_the_real_model_find():
    read = bundled.read_prompts(bundled.BUNDLES["smollm2"])
    prompts = read_texts(bundled.PROMPTS)
    left = [source for text, source in zip(prompts.texts, prompts.sources, strict=True) if text not in set(read.texts)]
    assert {left.count(source) for source in prompts.sources} == {35}
    assert len(read.texts) == len(set(read.texts)) == 15345
    assert bundled.read_prompts(bundled.BUNDLES["pocket"]).texts == prompts.texts
