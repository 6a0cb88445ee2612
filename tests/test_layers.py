"""The modules import one way: cli -> stages -> embeddings, activations -> models, store -> registries -> errors."""

from __future__ import annotations

import ast
from pathlib import Path

import atlas.cli
import pytest

import atlas

LAYERS = [
    ["errors", "progress", "spill"],
    ["database", "querying", "quiet", "replacement", "keeping", "token_tracking"],
    ["prompts", "summaries", "scorers", "codec", "sites", "waiting", "contents", "call_watching"],
    ["methods", "names", "pairs", "store", "intervals", "selection", "dialect", "spark"],
    ["models", "staging", "manifest", "products"],
    ["vocabulary", "steering", "checks", "uncertainty", "pocket", "controls", "vectors", "distances"],
    ["activations", "embeddings", "likelihood", "sides", "exchange"],
    ["layerwise"],
    ["agreement"],
    ["steerer"],
    ["metrics", "detection", "preferences"],
    ["plan", "score", "generate", "spark_query", "shards"],
    ["probe", "runs", "strengths", "spark_build"],
    ["build", "steer", "finetune", "measure", "variants"],
    ["evaluate", "contrast"],
    ["calibrate", "trial"],
    ["choices"],
    ["api"],
    ["exhibits"],
    ["reproduce"],
]
HEAVY = {
    "transformer_lens": {"models"},
    "sae_lens": {"models"},
    "transformers": {"models", "finetune", "quiet"},
    "sentence_transformers": {"models"},
    "sqlalchemy": {"database", "store"},
    "duckdb": {"database", "querying", "store"},
    "matplotlib": {"plots"},
    "pyspark": {"spark"},
    "sqlglot": {"dialect"},
}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOT = Path(atlas.__file__).parent
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imported(path: Path) -> set[str]:
    """Modules named by import statements that run, at the top or inside functions."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    names = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_the_layers_below_it(path):
    module = path.relative_to(ROOT).with_suffix("").parts[0]  # files of a folder share its layer
    own = RANK[module]
    used = {name.split(".")[1] for name in imported(path) if name.startswith("atlas.") and name.split(".")[1] in RANK}
    used -= {module} if path.parent != ROOT else set()
    assert all(RANK[name] < own for name in used), sorted(name for name in used if RANK[name] >= own)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_model_or_database_library_is_imported_in_one_place(path):
    for library, places in HEAVY.items():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert path.stem in places, library


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_library_neither_prints_nor_imports_click(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert "print" not in calls
    assert not any(name.split(".")[0] == "click" for name in imported(path))


def test_every_exported_name_is_there():
    assert all(getattr(atlas, name) is not None for name in atlas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        atlas.opne  # noqa: B018
