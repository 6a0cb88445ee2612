"""What READMEs and comments point to is there, and every command that a README shows is one."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from atlas.cli.main import COMMANDS, cli
from atlas.cli.readme import PARTS, renew
from pages import shown_commands

ROOT = Path(__file__).parents[1]
FOLDERS = ("atlas", "cli", "data", "sql", "tests")
READMES = sorted([ROOT / "README.md", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))])
EVERY_README = pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
METHOD = ROOT / "atlas/README.md"


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@EVERY_README
def test_every_link_of_a_readme_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if target.is_dir():
            assert (target / "README.md").exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@EVERY_README
def test_every_file_that_a_readme_names_is_there(path):
    """Those with a folder and an ending of ours: seen from the root, from atlas/ or from the page."""
    for name in re.findall(r"[`/ (]((?:\w+/)+\w+\.(?:py|sql))\b", prose(path.read_text())):
        places = (ROOT, ROOT / "atlas", path.parent)
        assert re.search("ROOM|NAME", name) or any((place / name).exists() for place in places), name


@EVERY_README
def test_every_command_that_a_readme_shows_is_one(path):
    parent = click.Context(cli, **cli.context_settings)
    for words in shown_commands(path.read_text()):
        command = cli.get_command(parent, words[0])
        assert command is not None, words
        command.make_context(words[0], words[1:], parent)


def test_every_room_of_the_method_is_linked_from_the_first_page():
    linked = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert {str(path.relative_to(ROOT)) for path in READMES} - {"README.md"} <= set(linked)


def test_the_page_of_the_file_shows_every_macro_as_it_is_called():
    made = re.findall(r"create or replace macro (\w+\(.*\)) as table", (ROOT / "sql/macros.sql").read_text())
    shown = re.findall(r"^\| `(\w+\(.*\))` \|", (ROOT / "sql/README.md").read_text(), re.MULTILINE)
    assert shown == made


def test_every_command_stands_in_the_reference_of_commands():
    text = (ROOT / "cli/README.md").read_text()
    assert [name for name in COMMANDS if f"### atlas {name}\n" not in text] == []


def test_every_section_and_equation_of_the_method_that_the_code_cites_is_there():
    """Each citation reads section 3, sections 4 and 5, or equation 7, behind the word method and a colon; a point may follow."""
    method = METHOD.read_text()
    there = {
        "section": re.findall(r"^## (\d+)\. ", method, re.MULTILINE),
        "equation": re.findall(r"^ {4}.* \((\d+)\)$", method, re.MULTILINE),
    }
    assert there["equation"] == [str(number) for number in range(1, len(there["equation"]) + 1)]
    files = [path for folder in FOLDERS for ending in ("*.py", "*.sql") for path in (ROOT / folder).rglob(ending)]
    cited = [words for path in files for words in re.findall(r"(?<!\w)\(method: ([^()]*)\)", path.read_text())]
    assert len(cited) > 20
    for words in cited:
        found = re.match(r"(section|equation)s? (\d+)(?: (?:and|to) (\d+))?(?:, |$)", words)
        assert found, words
        assert {found[2], found[3] or found[2]} <= set(there[found[1]]), words


def test_generated_pages_are_current():
    stale = [str(path) for path, text in renew(ROOT).items() if path.read_text() != text]
    assert stale == []
    assert {ROOT / file for file, _ in PARTS.values()} == renew(ROOT).keys()
