"""Who may import whom, and what starts without heavy packages."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.services import SERVICES
from tests.harness.command_line import COMMAND_LINE

ROOT = Path(__file__).resolve().parents[2]
OURS = ("benchmarks", "common", "deepseek", "deploy", "kernels", "protos", "services", "tests")
MAY_IMPORT = {
    "protos": {"protos"},
    "kernels": {"kernels"},
    "common": {"common", "protos"},
    "deepseek": {"deepseek", "common", "kernels", "protos"},
    "services": {"services", "deepseek", "common", "kernels", "protos"},
    "deploy": {"deploy", "deepseek", "common", "protos"},
}


def sources(folder: str) -> Iterator[Path]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if not path.stem.endswith(("_pb2", "_pb2_grpc")):
            yield path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; an import path is the file's path"
            yield node.module or "", node.lineno


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imports(path)
        if name.partition(".")[0] in OURS and name.partition(".")[0] not in MAY_IMPORT[package]
    ]
    assert not wrong


def test_a_service_never_imports_another_service() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for service in SERVICES
        for path in sources(f"services/{service}")
        for name, line in imports(path)
        if name.startswith("services.") and name.split(".")[1] != service
    ]
    assert not wrong


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """The names of all that could be modules in the imports of a file, with the line of each."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_module(name: str) -> bool:
    """Whether a name, or what precedes its last part, is that of a module in the folder of the tests."""
    return any((ROOT / part.replace(".", "/")).with_suffix(".py").exists() for part in (name, name.rpartition(".")[0]))


def test_no_module_imports_a_test_module() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in OURS
        for path in sources(package)
        for name, line in imported_modules(path)
        if re.match(r"tests\.(\w+\.)*test_\w+(\.|$)", name) and is_module(name)
    ]
    assert not wrong, "move what they share to tests/harness, or to a module beside them"


def test_only_tests_and_benchmarks_import_tests() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in OURS
        if package not in ("tests", "benchmarks")
        for path in sources(package)
        for name, line in imported_modules(path)
        if name.partition(".")[0] == "tests"
    ]
    assert not wrong


def test_one_place_says_how_our_programs_are_started() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for package in ("common", "deepseek", "kernels", "services")
        for path in sources(package)
        if "sys.executable" in path.read_text(encoding="utf-8") and path != ROOT / "common" / "processes.py"
    ]
    assert not wrong, "start them with common.processes.python, which sets a safe path"


def test_common_imports_no_torch() -> None:
    wrong = [str(path) for path in sources("common") for name, _ in imports(path) if name.partition(".")[0] == "torch"]
    assert not wrong


def is_edge(path: Path) -> bool:
    return path.name in ("service.py", "codec.py") or path.stem.endswith("servicer") or path.parent.name == "clients"


def test_the_domain_of_a_service_knows_neither_grpc_nor_protobuf() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("services")
        if not is_edge(path)
        for name, line in imports(path)
        if name.partition(".")[0] in ("grpc", "protos") or name.startswith("google.protobuf")
    ]
    assert not wrong


@pytest.mark.parametrize(
    "path",
    [path for name in OURS for path in sorted((ROOT / name).rglob("__main__.py"))],
    ids=lambda path: path.parent.name,
)
def test_a_program_starts_in_few_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


@pytest.mark.parametrize(
    "module",
    [
        "deepseek",
        "deepseek.client",
        COMMAND_LINE,
        *(f"services.{name}.__main__, services.{name}.service" for name in SERVICES),
    ],
)
def test_servers_and_the_command_line_start_without_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_services_do_not_know_any_task() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "services").rglob("*"))
        if path.suffix in (".py", ".toml", ".json", ".mako") and "vqa" in path.read_text(encoding="utf-8").lower()
    ]
    assert not wrong


def test_every_folder_with_sources_is_a_package() -> None:
    folders = {path.parent for name in (*MAY_IMPORT, "tests", "benchmarks") for path in (ROOT / name).rglob("*.py")}
    missing = [
        str(folder.relative_to(ROOT))
        for folder in sorted(folders)
        if not (folder / "__init__.py").exists() and "migrations" not in folder.parts
    ]
    assert not missing
