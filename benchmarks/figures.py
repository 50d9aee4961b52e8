"""Tables of certified figures in the documentation, generated from docs/results.

A document holds a table between two markers, `<!-- figures:NAME -->` and `<!-- /figures -->`. `make figures` renders
all tables, and `make check` fails if one is out of date. Certified figures appear only in these tables, never in prose.
A table remains empty until a result is certified. `benchmarks.figure_tables` defines the tables.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.figure_tables import data, federated, mesh, nas, privacy, tasks, tuning, watermark
from benchmarks.figure_tables.table import CaseTable, FigureTable

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"<!-- figures:(\w+) -->\n.*?<!-- /figures -->", re.DOTALL)


TABLES: dict[str, FigureTable | CaseTable] = {
    **data.TABLES,
    **federated.TABLES,
    **mesh.TABLES,
    **nas.TABLES,
    **privacy.TABLES,
    **tasks.TABLES,
    **tuning.TABLES,
    **watermark.TABLES,
}


def documents() -> list[Path]:
    """Returns the documents that may hold tables of figures."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def certified(area: str) -> dict[str, Any] | None:
    """Returns the certified result of an area; None if there is none."""
    path = ROOT / "docs" / "results" / f"{area}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rendered(text: str) -> str:
    """Returns a document with all its tables rendered from the certified results.

    Raises:
        ValueError: The document names an unknown table.
    """

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"unknown table of figures '{name}'; known: {', '.join(sorted(TABLES))}")
        table = TABLES[name]
        result = certified(table.area)
        text = f"{table.render(result)}\n" if result else ""
        return f"<!-- figures:{name} -->\n{text}<!-- /figures -->"

    return _BLOCK.sub(block, text)


def prose(text: str) -> str:
    """Returns a document without its tables of figures."""
    return _BLOCK.sub("", text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is stale")
    check = parser.parse_args().check
    stale = False
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (current := rendered(text)) == text:
            continue
        stale = True
        if not check:
            path.write_text(current, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'stale figures: run make figures' if check else 'updated'}", file=sys.stderr)
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
