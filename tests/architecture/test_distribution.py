"""The wheel works outside the checkout."""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deepseek.services import SERVICES
from tests.harness.command_line import COMMAND_LINE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protos", "common", "kernels", "deepseek", "services")
# `import grpc` imports these if they happen to be there.
TRIED_BY_GRPC = ("grpcio-tools", "grpcio-reflection", "setuptools")
KINDS = ("*.py", "*.proto", "*.pyi", "*.json")


@pytest.mark.slow
def test_the_wheel_holds_all_packages_and_imports_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    for package in PACKAGES:
        wanted = {path.relative_to(source).as_posix() for kind in KINDS for path in (source / package).rglob(kind)}
        assert wanted <= names, f"the wheel lacks {sorted(wanted - names)}"
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import common, deepseek, kernels, protos, services, deepseek.cli.app, services.registry.__main__\n"
        "print(*(module.__file__ for module in (common, deepseek, kernels, protos, services)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert all(Path(file).is_relative_to(site) for file in done.stdout.split())


def test_torch_is_locked_as_one_version() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert [line for line in lock if line.startswith("torch==")] == ["torch==2.13.0"]


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    locked = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    for requirement in wanted:
        name = requirement
        for stop in "[<>=; ":
            name = name.partition(stop)[0]
        if name != "deepseek-mesh":
            assert name.lower() in locked, f"{name} is not locked: run 'make lock'"


def installed_with(extra: str) -> set[str]:
    """Names of all distributions that `pip install deepseek-mesh[extra]` brings, by the installed metadata."""
    found: set[str] = set()
    todo = [("deepseek-mesh", extra)]
    while todo:
        name, wanted = todo.pop()
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            key = canonicalize_name(requirement.name)
            new = [(key, one) for one in ("", *requirement.extras)] if key not in found or requirement.extras else []
            if key != "deepseek-mesh":
                found.add(key)
                new = [item for item in new if is_installed(item[0])]
            todo += new
    return found


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("extra", ["", *SERVICES])
def test_what_an_extra_installs_is_enough_to_start_it(extra: str) -> None:
    module = f"services.{extra}.__main__, services.{extra}.service" if extra else COMMAND_LINE
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    distributions = importlib.metadata.packages_distributions()
    used = {canonicalize_name(one) for name in done.stdout.split() for one in distributions.get(name, [])[:1]}
    assert used - installed_with(extra) - {"deepseek-mesh", *TRIED_BY_GRPC} == set()
