"""Tables of certified figures in the documentation."""

import re
from pathlib import Path

import pytest

from benchmarks.figures import TABLES, certified, documents, prose, rendered

PAGES = documents()
RESULTS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tables_show_the_certified_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text, "run make figures"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_prose_states_no_certified_figure(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    values = {figure.value(certified(table.area)) for table in TABLES.values() for figure in table.figures}
    # Numbers such as 0, 7 and 0.9 are too common to identify a figure.
    distinct = [value for value in values if re.fullmatch(r"[\d,]+\.\d+ .+|[1-9]\d*\.\d\d+", value)]
    stated = [value for value in distinct if re.search(rf"(?<![\d.,]){re.escape(value)}(?!\d)", text)]
    assert not stated


def test_every_result_and_every_table_is_shown() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted({table.area for table in TABLES.values()}) == RESULTS
    assert [name for name in TABLES if f"<!-- figures:{name} -->" not in texts] == []
    assert texts.count("<!-- figures:") == texts.count("<!-- /figures -->")


def test_a_table_states_value_unit_interval_and_origin() -> None:
    table = rendered("before\n<!-- figures:faults -->\nanything\n<!-- /figures -->\nafter")
    assert table.startswith("before\n<!-- figures:faults -->\n| measured | value | 95 % interval |\n")
    assert re.search(r"\| Time until ready, 95th percentile \| [\d.]+ s \| [\d.]+ to [\d.]+ \|\n", table)
    assert re.search(r"\nn = \d+ trials; processor .+;\ncommit [0-9a-f]{12}\.\n<!-- /figures -->\nafter$", table)


def test_a_changed_figure_is_replaced() -> None:
    text = rendered("<!-- figures:mesh -->\n<!-- /figures -->")
    assert rendered(text.replace("| 200 |", "| 300 |")) == text


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown table of figures 'speed'; known: demo, "):
        rendered("<!-- figures:speed -->\n<!-- /figures -->")
