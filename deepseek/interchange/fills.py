"""Values for missing cells: those that the user states, or the mean or median of a column of numbers."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.statistics import FieldStatistics

AVERAGES = ("mean", "median")
"""Words that stand for a number in `--fill`. They are not numbers, so they cannot be meant literally."""

_DIGITS = 6


def is_average(value: object, one: Field) -> bool:
    """Returns whether a value for missing cells of a field is to be computed from the values of the field."""
    return value in AVERAGES and one.type in ("integer", "number")


def average(word: str, found: FieldStatistics, one: Field) -> float:
    """Returns the mean or median of a field, with 6 significant digits, so that people can type it.

    The median of more than RESERVOIR_VALUES values is that of a random selection. For integers, the result is rounded.

    Raises:
        InvalidArgument: BAD_VALUE if the field has no values.

    >>> found = FieldStatistics()
    >>> for value in (1, 2, 7): found.add_number(value)
    >>> average("mean", found, Field("x", "number")), average("median", found, Field("x", "integer"))
    (3.33333, 2)
    """
    if not found.num_values:
        message = f"{one.name} has no numbers, so it has no {word}; use --fill {one.name}=VALUE"
        raise InvalidArgument("BAD_VALUE", message, field="fill")
    value = found.mean if word == "mean" else statistics.median(found.reservoir)
    return round(value) if one.type == "integer" else float(f"{value:.{_DIGITS}g}")


def check_stated(fields: Iterable[Field], fills: Mapping[str, str]) -> None:
    """Checks that no value is to be computed, which needs the pass over the rows that a complete schema saves.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    for one in fields:
        if is_average(fills.get(one.name), one):
            message = f"the {fills[one.name]} of {one.name} is computed only if the schema is inferred"
            raise InvalidArgument("BAD_VALUE", f"{message}; use --fill {one.name}=VALUE", field="fill")


def fill_hints(
    fields: Sequence[Field], missing: Mapping[str, int], fills: Mapping[str, object], *, averages: bool
) -> list[str]:
    """Returns a sentence about each field whose missing values keep samples aside and can be filled.

    Args:
        fields: The schema.
        missing: Number of missing values by field.
        fills: Values for missing cells by field.
        averages: Whether an average can be computed, see `check_stated`.
    """
    found = []
    for one in fields:
        if one.type not in ("label", "integer", "number") or one.name in fills or not missing.get(one.name):
            continue
        median = f" or --fill {one.name}=median" if averages and one.type != "label" else ""
        problem = f"rows without a value of {one.name} are kept aside: {missing[one.name]}"
        found.append(f"{problem}; --fill {one.name}=VALUE{median} keeps them")
    return found
