"""Who may import whom, and what starts without heavy packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("benchmarks", "common", "deepseek", "kernels", "protos", "services", "tests")
MAY_IMPORT = {
    "protos": {"protos"},
    "kernels": {"kernels"},
    "common": {"common", "protos"},
    "deepseek": {"deepseek", "common", "kernels", "protos"},
    "services": {"services", "deepseek", "common", "kernels", "protos"},
}
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))


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


def test_the_domain_of_a_service_knows_neither_grpc_nor_protobuf() -> None:
    edges = {"__main__.py", "servicer.py", "codec.py", "registry.py"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("services")
        if path.name not in edges
        for name, line in imports(path)
        if name.partition(".")[0] in ("grpc", "protos") or name.startswith("google.protobuf")
    ]
    assert not wrong


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_in_few_lines(service: str) -> None:
    assert len((ROOT / "services" / service / "__main__.py").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize(
    "module",
    ["deepseek", "deepseek.client", "deepseek.cli.__main__", *(f"services.{name}.__main__" for name in SERVICES)],
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
