"""Tables of certified figures in the documentation."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import federated as federated_rounds
from benchmarks import figures, ingest, resume, tasks
from benchmarks.figure_tables import data, federated, mesh, nas, privacy, tuning, watermark
from benchmarks.figure_tables import tasks as task_tables
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
    results = [(table, certified(table.area)) for table in TABLES.values()]
    values = {value for table, result in results if result for value in table.values(result)}
    # Numbers such as 0, 7 and 0.9 are too common to identify a figure.
    distinct = [value for value in values if re.fullmatch(r"[\d,]+\.\d+ .+|[1-9]\d*\.\d\d+", value)]
    stated = [value for value in distinct if re.search(rf"(?<![\d.,]){re.escape(value)}(?!\d)", text)]
    assert not stated


def test_every_result_and_every_table_is_shown() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {table.area for table in TABLES.values()} >= set(RESULTS)
    assert len(TABLES) == sum(
        len(module.TABLES) for module in (data, federated, mesh, nas, privacy, task_tables, tuning, watermark)
    )
    assert [name for name in TABLES if f"<!-- figures:{name} -->" not in texts] == []
    assert texts.count("<!-- figures:") == texts.count("<!-- /figures -->")


def test_a_table_states_value_unit_interval_and_origin() -> None:
    table = rendered("before\n<!-- figures:faults -->\nanything\n<!-- /figures -->\nafter")
    assert table.startswith("before\n<!-- figures:faults -->\n| measured | value | 95 % interval |\n")
    assert re.search(r"\| Time until ready, 95th percentile \| [\d.]+ s \| [\d.]+ to [\d.]+ \|\n", table)
    assert re.search(r"\nn = \d+ trials; processor .+;\scommit [0-9a-f]{12}\.\n<!-- /figures -->\nafter$", table)


def test_a_changed_figure_is_replaced() -> None:
    text = rendered("<!-- figures:mesh -->\n<!-- /figures -->")
    assert rendered(text.replace("| 200 |", "| 300 |")) == text


ORIGIN = {"commit": 40 * "a", "changed": False, "cpu": "2 x Processor", "instruction_set": ""}
TRIAL = {"num_kills": 5, "acknowledged": 900, "lost": 0, "repeated": 0}
READERS = {f"{name}_{n}": 100.0 for name in ("ours", "sequential", *ingest.PEERS) for n in (1, 2)}
PARTS = (
    {"part": "read", **READERS},
    {"part": "write", "import": 80.0, "decode": 100.0, "litdata_writer": 10.0},
    {"part": "memory", "import_mib": 2.0, "read_mib": 1.0},
)
TASK = {"commands": 4, "minutes": 1.26, "n": 63, "points": 96.825, "baseline": "a guess", "baseline_points": 98.0}

FIGURES_OF_BLOCK = ("round_s", "first_s", "load_s", "first_load_s")
BLOCK = {f"{system}_{name}": 0.0025 for system in federated_rounds.SYSTEMS for name in FIGURES_OF_BLOCK}
BLOCK |= {"part": "block", "round": 0}


@pytest.mark.parametrize(
    ("name", "result", "row"),
    [
        ("resume", resume.summary([TRIAL] * 400), "| Times that all readers were killed | 2,000 |"),
        (
            "ingest",
            {"n": 1, "images": 6000, **ingest.summary([{**part, "round": 0} for part in PARTS])},
            "| Pictures imported per second / written by litdata | 8.00 | 8.00 to 8.00 |",
        ),
        (
            "federated",
            {"n": 1, **federated_rounds.summary([BLOCK])},
            "| Loading data of plain Flower, per message after the first round | 2.5 ms |  |",
        ),
        (
            "tasks",
            tasks.summary([tasks.judged({"task": "tabular", **TASK})]),
            "| tabular | 4 | 1.3 min | 63 | 96.83 % | 98.00 % | a guess |",
        ),
    ],
)
def test_a_result_is_shown_as_soon_as_it_is_certified(
    name: str, result: dict[str, Any], row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (page,) = [text for path in PAGES if f"<!-- figures:{name} -->" in (text := path.read_text(encoding="utf-8"))]
    monkeypatch.setattr(figures, "certified", lambda area: None)
    assert f"<!-- figures:{name} -->\n<!-- /figures -->" in rendered(page)
    monkeypatch.setattr(figures, "certified", lambda area: result | ORIGIN if area == name else None)
    assert f"\n{row}\n" in rendered(page)


def test_every_row_of_a_new_result_is_shown() -> None:
    result = federated_rounds.summary([BLOCK])
    assert [figure.key for figure in federated.TABLES["federated"].figures if figure.key not in result] == []
    assert len(federated.TABLES["federated"].values({"mesh_round_s": 1.0})) == 1


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown table of figures 'speed'; known: demo, "):
        rendered("<!-- figures:speed -->\n<!-- /figures -->")
