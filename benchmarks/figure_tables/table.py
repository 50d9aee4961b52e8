"""Tables of certified figures, and how they are written in Markdown."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of a table.

    Args:
        label: Description of the measured quantity.
        key: Key of the value in the result.
        unit: Unit of the value, after scaling.
        scale: Factor that converts the value from the result's unit to `unit`.
        decimals: Number of digits after the decimal point.
        interval: Key of the interval in the result; empty if there is none.
    """

    label: str
    key: str
    unit: str = ""
    scale: float = 1
    decimals: int = 0
    interval: str = ""

    def value(self, result: Mapping[str, Any]) -> str:
        found = result[self.key]
        return found if isinstance(found, str) else f"{self._number(found)} {self.unit}".strip()

    def spread(self, result: Mapping[str, Any]) -> str:
        if not self.interval:
            return ""
        low, high = result[self.interval]
        return f"{self._number(low)} to {self._number(high)}"

    def _number(self, value: float) -> str:
        return f"{value * self.scale:,.{self.decimals}f}"


@dataclass(frozen=True)
class FigureTable:
    """A table of figures from one certified result.

    Args:
        area: Name of the result, docs/results/<area>.json.
        cases: Plural noun for the items that the result's `n` counts, such as `trials`.
        figures: Rows of the table. Those that an older result does not have are left out.
        spread: Heading of the column that holds the intervals.
    """

    area: str
    cases: str
    figures: tuple[Figure, ...]
    spread: str = "95 % interval"

    def values(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the values in the table."""
        return [figure.value(result) for figure in self._measured(result)]

    def render(self, result: Mapping[str, Any]) -> str:
        """Returns the table in Markdown."""
        has_spread = any(figure.interval for figure in self.figures)
        head = ["measured", "value", *([self.spread] if has_spread else [])]
        rows = [
            [figure.label, figure.value(result), *([figure.spread(result)] if has_spread else [])]
            for figure in self._measured(result)
        ]
        return _markdown([head, *rows], self.cases, result)

    def _measured(self, result: Mapping[str, Any]) -> list[Figure]:
        return [figure for figure in self.figures if figure.key in result]


@dataclass(frozen=True)
class CaseTable:
    """A table with one row per case of one certified result.

    Args:
        area: Name of the result, docs/results/<area>.json. Its key `each` maps the name of a case to its figures.
        cases: Plural noun for the cases.
        case: Heading of the column that holds the names of the cases.
        figures: Further columns of the table; a label is the heading of a column.
    """

    area: str
    cases: str
    case: str
    figures: tuple[Figure, ...]

    def values(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the values in the table."""
        return [figure.value(one) for one in result["each"].values() for figure in self.figures]

    def render(self, result: Mapping[str, Any]) -> str:
        """Returns the table in Markdown."""
        head = [self.case, *(figure.label for figure in self.figures)]
        rows = [[name, *(figure.value(one) for figure in self.figures)] for name, one in result["each"].items()]
        return _markdown([head, *rows], self.cases, result)


def _markdown(rows: Sequence[Sequence[str]], cases: str, result: Mapping[str, Any]) -> str:
    """Returns rows as a table, of which the first is the heading, followed by where the result is from."""
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
    instruction_set = f" ({result['instruction_set']})" if result["instruction_set"] else ""
    origin = f"n = {result['n']:,} {cases}; processor {result['cpu']}{instruction_set}; commit {result['commit'][:12]}."
    return "\n".join([*lines, "", *textwrap.wrap(origin, 100)])
