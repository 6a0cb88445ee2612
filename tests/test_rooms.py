"""Rooms import only from floors below their own, model and database libraries in one place, and queries stay in their rooms."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

import atlas.cli
import pytest

import atlas

FLOORS = (  # from the ground up; rooms on one floor do not import each other
    ("errors", "progress", "auroc"),
    ("texts", "store", "background"),
    ("models", "meaning"),
    ("building", "scoring", "contrast"),
    ("steering", "spark"),
    ("evaluation", "cards"),
    ("api",),
    ("reproduction", "explorer"),
    ("cli",),
)
LIBRARIES = {  # library -> the files that may import it
    "transformer_lens": {"models/loading"},
    "sae_lens": {"models/saes"},
    "transformers": {
        "models/checkpoints",
        "models/gguf",
        "models/loading",
        "models/sampling",
        "models/acceptability",
        "models/quiet",
        "evaluation/finetune",
    },
    "sentence_transformers": {"models/encoders"},
    "gguf": {"models/gguf"},
    "huggingface_hub": {"models/hub", "models/quiet"},
    "sqlalchemy": {"store/database", "store/failures", "store/file"},
    "duckdb": {"store/database", "store/failures", "store/querying", "store/session"},
    "jinja2": {"cards/html"},
    "matplotlib": {"reproduction/plots"},
    "nicegui": {
        f"explorer/{name}"
        for name in (
            "app",
            "columns",
            "compare_page",
            "scatter",
            "export",
            "frame",
            "keep",
            "listed",
            "lists_page",
            "map_page",
            "neuron_page",
            "search_page",
            "sql_page",
            "steer_form",
            "steer_page",
            "steer_view",
            "topics_page",
            "why_page",
        )
    },
    "pyspark": {"spark/session", "spark/query"},
    "umap": {"meaning/neuron_map"},
    "sqlglot": {"spark/dialect"},
}
QUERY_ROOMS = {"topics": "scoring", "uncertainty": "scoring", "questions": "api"}  # folders of sql/ that are no rooms
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room in rooms}
ROOT = Path(atlas.__file__).parent
FILES = {
    path.relative_to(folder.parent).with_suffix("").as_posix().removeprefix("atlas/"): path
    for folder in (ROOT, Path(atlas.cli.__file__).parent)
    for path in sorted(folder.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
MODULES = pytest.mark.parametrize("name", FILES)


def room_of(name: str) -> str:
    return name.split("/")[0]


def imported(path: Path) -> set[str]:
    """Every module that an import statement names, wherever it stands: at the top, in functions, under TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@MODULES
def test_a_room_imports_only_from_floors_below_its_own(name):
    own = room_of(name)
    used = {found.split(".")[1] for found in imported(FILES[name]) if found.startswith("atlas.")} & FLOOR.keys()
    assert not [room for room in used - {own} if FLOOR[room] >= FLOOR[own]]


def test_no_two_files_of_a_room_import_each_other_in_a_circle():
    graph = {}
    for name, path in FILES.items():
        found = {module.removeprefix("atlas.").replace(".", "/") for module in imported(path)}
        graph[name] = {
            other for other in FILES if other != name and any(f"{m}/".startswith(f"{other}/") for m in found)
        }
    while leaves := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_every_room_has_its_floor_and_says_what_is_in_it():
    rooms = {room_of(name) for name in FILES}
    assert rooms == FLOOR.keys()
    for room in rooms - {"errors", "progress", "auroc", "background", "api", "cli"}:
        said = (ROOT / room / "__init__.py").read_text()
        readme = ROOT / room / "README.md"
        said += readme.read_text() if readme.exists() else ""
        missing = [name for name in FILES if room_of(name) == room and not re.search(rf"\b{Path(name).stem}\b", said)]
        assert missing in ([], [f"{room}/__init__"])


def test_the_page_of_the_library_draws_the_same_floors():
    rows = re.findall(r"^\| (\d) \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    drawn = {int(floor): set(re.findall(r"`(\w+)(?:/|\.py)`", rooms)) for floor, rooms in rows}
    assert drawn == {floor: set(rooms) for floor, rooms in enumerate(FLOORS, start=1)}


@MODULES
def test_a_model_or_database_library_is_imported_in_one_place(name):
    found = {module.split(".")[0] for module in imported(FILES[name])}
    assert not [library for library in found & LIBRARIES.keys() if name not in LIBRARIES[library]]


@MODULES
def test_the_library_neither_prints_nor_imports_click(name):
    if room_of(name) == "cli":
        return
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.Call)
    }
    assert "print" not in calls
    assert not any(module.split(".")[0] == "click" for module in imported(FILES[name]))


@MODULES
def test_a_query_is_asked_by_its_room_or_one_above(name):
    folders = {path.stem: path.parent.name for path in Path(str(files("atlas.sql"))).rglob("*.sql")}
    own = room_of(name)
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Constant) and node.value in folders and folders[node.value] != "sql":
            room = QUERY_ROOMS.get(folders[node.value], folders[node.value])
            assert room == own or FLOOR[room] < FLOOR[own], f"{own} asks {node.value} of {room}"


@MODULES
def test_a_module_that_prose_names_exists(name):
    for words in re.findall(r"(?<![\w./])atlas((?:\.\w+)+)", re.sub(r"atlas\.cli", "cli", FILES[name].read_text())):
        parts = words.lstrip(".").split(".")
        if parts[0] in FLOOR and parts[0] not in ("api", "store"):  # `atlas.store` may be an attribute
            assert (ROOT / parts[0]).with_suffix(".py").exists() or "/".join(parts[:2]) in FILES or len(parts) == 1


def test_every_exported_name_is_there():
    assert all(getattr(atlas, name) is not None for name in atlas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        atlas.opne  # noqa: B018
