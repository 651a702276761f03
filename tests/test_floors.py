"""Floors of the package: imports point down, rooms on one floor do not import each other, there are no import cycles, files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prefrep"
# From the ground up; rooms on one floor do not import each other.
STOREYS = (
    ("records", "battles", "errors"),
    ("annotators", "caching", "console", "memory", "signals", "web"),
    ("room",),
    ("disk", "locks"),
    ("declared", "shipped", "typed", "writers"),
    ("parts",),
    ("functional",),
    ("nn", "data", "metrics"),
    ("io",),
    ("modules",),  # a module may begin with a model that io reads
    ("scoring", "generation"),
    ("judges", "search"),
    ("callbacks", "evaluation", "labels"),
    ("training",),
    ("sweeps",),
    ("reports", "server", "adapters"),
    ("demo",),
    ("programs",),
    ("cli",),
    ("__main__",),
)
FLOORS = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def imports(name: str, tree: ast.AST, known: set[str]) -> set[str]:
    """Modules of the package that a module imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "prefrep")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            if node.module and node.module.split(".")[0] == "prefrep":
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= full & known
                if full - known:  # names that stand in the module itself
                    found.add(node.module)
    return found - {name}


def floor_breaks(name: str, found: set[str]) -> list[str]:
    """Imports of one module that do not point down, as sentences."""
    if name == "prefrep":  # it names programs for type checkers, and imports them when they are first used
        return [f"prefrep/__init__ imports {other}" for other in sorted(found) if not other.startswith("prefrep.programs")]
    room = name.split(".")[1]
    others = {other: other.split(".")[1] if "." in other else "" for other in found}
    return [
        f"{name} (floor {FLOORS[room]}) imports {other} (floor {FLOORS.get(there, '?')})"
        for other, there in sorted(others.items())
        if there and there != room and not FLOORS[there] < FLOORS[room]
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of imports, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


@cache
def graph() -> dict[str, set[str]]:
    known = set(modules())
    return {name: imports(name, tree, known) for name, tree in modules().items()}


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in modules() if "." in name}
    assert rooms <= FLOORS.keys(), f"give them a floor here and in prefrep/README.md: {rooms - FLOORS.keys()}"


def test_imports_point_down() -> None:
    broken = [sentence for name, found in graph().items() for sentence in floor_breaks(name, found)]
    assert not broken, "\n".join(broken)


def test_no_circles() -> None:
    assert cycle(graph()) == []


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_a_file_is_one_idea() -> None:
    long = {str(path.relative_to(PACKAGE)): count for path in PACKAGE.rglob("*.py") if (count := lines(path)) > 350}
    assert not long, f"split along an idea, or shorten: {long}"
    assert sum(map(lines, (PACKAGE / "cli").glob("*.py"))) < 1300


def test_violations_are_found() -> None:
    known = {"prefrep.nn.heads", "prefrep.data.trees", "prefrep.records", "prefrep.scoring"}
    source = "import torch\nfrom prefrep.records import Message\ndef f():\n    from prefrep.data import trees\n    import prefrep.scoring"
    found = imports("prefrep.nn.heads", ast.parse(source), known)
    assert found == {"prefrep.records", "prefrep.data.trees", "prefrep.scoring"}
    assert len(floor_breaks("prefrep.nn.heads", found)) == 2
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize(
    "module",
    ["prefrep.records", "prefrep.errors", "prefrep.scoring.workers", "prefrep.cli.main", "prefrep.programs"],
)
def test_light_modules_stay_light(module: str) -> None:
    heavy = "{'torch', 'transformers', 'lightning', 'datasets', 'numpy'}"
    code = f"import sys, {module}; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == ""
