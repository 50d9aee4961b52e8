"""The wheel works outside the checkout."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protos", "common", "kernels", "deepseek", "services")
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
        "import common, deepseek, kernels, protos, services, deepseek.cli.__main__, services.registry.__main__\n"
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
