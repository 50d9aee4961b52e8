"""Certified results, documents, scripts and targets of the repository."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The files of the stack are left out: type names of Envoy and commands of containers cannot be wrapped.
SOURCES = ("*.py", "*.proto", "*.md", "*.sh", "*.mjs", "Makefile", "buf.yaml")
PRAGMA = re.compile(r"\s+# (type: ignore|noqa|shellcheck).*")
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_certified_result_says_where_it_comes_from(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    # Null in results from before the instruction set was recorded.
    assert {"commit", "cpu", "instruction_set", "n"} <= set(result)
    assert result["changed"] is False
    assert result["n"] > 1


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in names.stdout.split("\0") if name and (ROOT / name).exists()]


def is_generated(path: Path) -> bool:
    return path.stem.endswith(("_pb2", "_pb2_grpc"))


def anchors(page: Path) -> set[str]:
    """The fragments by which links name the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_line_is_longer_than_120_characters() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(*SOURCES)
        if not is_generated(path)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        # Rows of tables, images and URLs cannot be wrapped.
        if not (path.suffix == ".md" and line.startswith(("|", "![")))
        if "://" not in line and len(PRAGMA.sub("", line)) > 120
    ]
    assert not wrong


def test_relative_links_resolve() -> None:
    wrong = [
        f"{page.relative_to(ROOT)} links to {target}"
        for page in tracked("*.md")
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
        for file, _, fragment in [target.partition("#")]
        for linked in [page.parent / file if file else page]
        if not linked.exists() or (fragment and fragment not in anchors(linked))
    ]
    assert not wrong


def test_scripts_are_executable() -> None:
    for script in (ROOT / ".ci" / "run", *(ROOT / "deploy" / "setup").glob("*.sh")):
        assert script.stat().st_mode & 0o100, script


def test_make_help_lists_the_targets() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(
        f"make {target}" in text
        for target in ("demo", "test", "check", "format", "protos", "spec", "figures", "baseline", "lock")
    )


def test_paths_in_documents_exist() -> None:
    folders = "common|deepseek|services|kernels|protos|deploy|tests|benchmarks|docs|findings"
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked("*.md")
        for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not wrong


def test_modules_stay_short() -> None:
    """Modules have at most 350 lines, their docstrings at most eight."""
    sources = [path for path in tracked("*.py") if not is_generated(path)]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {str(path): n for path, n in lengths.items() if n > 350} == {}
    docstrings = {path.relative_to(ROOT): ast.get_docstring(ast.parse(path.read_text())) or "" for path in sources}
    assert [str(path) for path, text in docstrings.items() if len(text.splitlines()) > 8] == []
