"""The order of the rooms: who may import whom."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

PACKAGE = REPOSITORY / "usucl_fast"
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
ROOMS = ("", "shards", "pack", "feed", "mining", "learn", "evaluate", "bench", "cli")
"""From the ground up: a room imports from rooms before it alone. The ground has no name."""


def imports(module: str) -> Iterator[str]:
    """The modules of this package that a module imports, wherever in it, but for types alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    types = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def test_a_room_imports_from_rooms_below_it_alone() -> None:
    up = {
        (room(module), room(other)): f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    }
    assert not up


def test_no_two_modules_import_each_other() -> None:
    """Not even by way of others, and not within functions either."""
    graph = {module: {other for other in imports(module) if other != module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


@pytest.mark.parametrize(
    "package", sorted(path.parent.relative_to(REPOSITORY) for path in PACKAGE.rglob("__init__.py"))
)
def test_the_first_lines_of_a_package_list_every_file(package: Path) -> None:
    folder = REPOSITORY / package
    words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = set(re.findall(r"[\w/]+(?:\.py|/)", words))
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert files - named == set()
    if package != Path("usucl_fast"):
        assert folders - named == set()
    assert {name for name in named if name.endswith(".py")} - files == set()
