"""An ordinary install carries every room, query and bundled file, and the checkout's folder works for who starts in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
NOT_CARRIED = {".py", ".md", ".jpg"}  # modules are carried as such; what explains a room is read in the repository
NOT_INSTALLED = ("data/pocket/scripts", "data/smollm2/scripts")  # how the weights were made: run from the checkout

WORDS = """
import sys
import atlas.cli.main, atlas.sql, atlas.data, atlas.spark.query
print(atlas.open(sys.argv[1]).sql("select state from atlas").item())
print(*(module.__file__ for module in (atlas, atlas.cli, atlas.sql, atlas.data)), sep="\\n")
"""


def folder_of(package: str) -> Path:
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def is_below(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def test_python_started_in_a_checkout_finds_every_part_there(tmp_path, built_atlas):
    """With the libraries of this environment, but without its .pth files, which an editable install works by."""
    for name in ("atlas", "cli", "sql"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "data/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    libraries = [path for path in sys.path if path and not is_below(Path(path), [ROOT])]
    done = subprocess.run(
        [sys.executable, "-S", "-c", WORDS, str(built_atlas)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    state, *found = done.stdout.splitlines()
    assert state == "complete"
    assert found == [str(tmp_path / name / "__init__.py") for name in ("atlas", "cli", "sql", "data")]


def test_every_folder_of_modules_is_a_package_of_the_install():
    folders = [folder_of(package) for package in ("atlas", "atlas.cli", "atlas.sql", "atlas.data")]
    with_code = {path.parent for folder in folders for path in folder.rglob("*.py")}
    left_out = [ROOT / name for name in NOT_INSTALLED]
    assert {folder_of(name) for name in SETUPTOOLS["packages"]} == {f for f in with_code if not is_below(f, left_out)}
    assert all((folder_of(name) / "__init__.py").exists() for name in SETUPTOOLS["packages"])


@pytest.mark.parametrize("package", ["atlas", "atlas.sql", "atlas.data"])
def test_every_query_and_bundled_file_is_part_of_the_install(package):
    carried = set[Path]()
    for name, patterns in SETUPTOOLS["package-data"].items():
        carried |= {path for pattern in patterns for path in folder_of(name).glob(pattern)}
    left_out = [*(ROOT / name for name in NOT_INSTALLED), *folder_of(package).rglob("__pycache__")]
    there = [path for path in folder_of(package).rglob("*") if path.is_file() and path.suffix not in NOT_CARRIED]
    assert [path for path in there if not is_below(path, left_out) and path not in carried] == []
