"""What documents claim, and what the repository must not contain."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_certified_result_says_where_it_comes_from(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    # Null in results from before the instruction set was recorded.
    assert {"commit", "cpu", "instruction_set", "n"} <= set(result)
    assert result["changed"] is False
    assert result["n"] > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_figures_in_documents_are_those_of_certified_results(page: Path) -> None:
    """A figure is quoted as `<value><!-- results/<area>.json: <key> [* factor] -->`."""
    text = page.read_text(encoding="utf-8")
    quoted = re.findall(r"([\d.,]+)\s?[%a-zA-Z]*\s?<!-- results/(\w+)\.json: (\w+)(?: \* (\d+))? -->", text)
    assert len(quoted) == text.count("<!-- results/"), "a quotation that is not of this form is not checked"
    for figure, area, key, factor in quoted:
        value = json.loads((ROOT / "docs" / "results" / f"{area}.json").read_text(encoding="utf-8"))[key]
        decimals = len(figure.partition(".")[2])
        assert figure == f"{value * int(factor or 1):.{decimals}f}", f"{page.name} quotes {key} as {figure}"


def test_scripts_are_executable() -> None:
    for script in (ROOT / ".ci" / "run", *(ROOT / "deploy" / "setup").glob("*.sh")):
        assert script.stat().st_mode & 0o100, script


def test_make_help_lists_the_targets() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in text for target in ("demo", "test", "check", "format", "protos", "baseline", "lock"))
