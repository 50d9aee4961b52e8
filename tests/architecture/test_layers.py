"""The order of packages inside `common`, and the absence of import cycles between modules.

Imports under TYPE_CHECKING and inside functions count: they hide a cycle but do not remove it.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("common", "deepseek", "services", "kernels", "benchmarks", "tests")

LAYERS = (
    {"contracts", "cores", "deadline", "environment", "errors", "keepalive", "paths", "processes", "text_files"},
    {"database", "files", "fork_client", "names", "ports", "scalars", "sources", "unix_sockets", "watches"},
    {"auth", "proto"},
    {"call_context", "service"},
    {"telemetry"},
    {"artifacts", "channel", "config"},
    {"jobs", "probe", "upkeep"},
    {"remote", "server"},
    {"launch"},
    {"fork_server"},
)
"""Packages and modules of `common`, the lowest first. Each imports only what is in a layer below its own."""


@cache
def modules() -> dict[str, Path]:
    """Our modules by name; a package is its `__init__`."""
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of ours that each module imports, anywhere in it."""
    return {name: frozenset(_imported(path)) - {name} for name, path in modules().items()}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules():
                    yield submodule
                elif node.module in modules():
                    yield node.module or ""


def cycles(graph: Mapping[str, frozenset[str]]) -> list[set[str]]:
    """The sets of two nodes or more that all reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), frozenset()) - found
            found |= new
            todo += new
        return found

    reach = {node: reached(node) for node in graph}
    circles: list[set[str]] = []
    for node in graph:
        if node in reach[node] and not any(node in circle for circle in circles):
            circles.append({other for other in reach[node] if node in reach[other]})
    return circles


def unit(module: str) -> str:
    """The package or module of `common` that a module belongs to."""
    return module.split(".")[1]


def inside_common() -> Iterator[str]:
    return (name for name in modules() if name.startswith("common."))


def test_everything_in_common_has_its_layer() -> None:
    assert {unit(name) for name in inside_common()} == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(set().union(*LAYERS))


def test_common_is_imported_from_the_top_down() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{importer} imports {imported}"
        for importer in inside_common()
        for imported in imports()[importer]
        if imported.startswith("common.") and unit(imported) != unit(importer)
        if level[unit(imported)] >= level[unit(importer)]
    ]
    assert not wrong


def test_no_modules_import_each_other() -> None:
    assert cycles(imports()) == []


def test_a_cycle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert cycles({name: frozenset(found) for name, found in graph.items()}) == [{"a", "b", "c"}]
