"""Names of fields, made from those of the columns of a source."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache


@cache
def field_name(column: str) -> str:
    """Returns the name of the field for a column.

    >>> field_name("Größe (cm)"), field_name("2nd")
    ('gro_e_cm', 'f_2nd')
    """
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "replace").decode().replace("?", "_").lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or "column"
    return (name if name[0].isalpha() else f"f_{name}")[:63]


def columns_of_fields(columns: Iterable[str], fields: Iterable[str]) -> dict[str, str]:
    """Returns the columns that hold given fields of a data set, each with the name of its field.

    A table whose columns are named like all of the fields needs no renaming. Otherwise, its columns are renamed as an
    import would rename them, so the table from which the fields were imported fits again.

    >>> columns_of_fields(["Alcohol %", "Ash", "id"], ["alcohol", "ash"])
    {'Alcohol %': 'alcohol', 'Ash': 'ash'}
    >>> columns_of_fields(["x", "X"], ["x", "x_2"]), columns_of_fields(["X", "x"], ["x", "y"])
    ({'x': 'x', 'X': 'x_2'}, {'x': 'x'})
    """
    columns, fields, names = list(columns), set(fields), FieldNames()
    imported = {column: names.of(column) for column in columns}
    exact = {column: column for column in columns if column in fields}
    if len(exact) < len(fields) <= len(set(imported.values()).intersection(fields)):
        exact = {}
    renamed = {column: name for column, name in imported.items() if name in fields and name not in exact}
    return exact | {column: name for column, name in renamed.items() if column not in exact}


class FieldNames:
    """The names of the fields by column. Columns whose names become the same one get `_2`, `_3` and so on.

    A column gets its name when it is asked for first, so the order of the columns decides.

    >>> names = FieldNames()
    >>> [names.of(column) for column in ("x", "X", "年龄", "性别")]
    ['x', 'x_2', 'column', 'column_2']
    >>> names.find("X"), names.find("x_2"), names.find("Y")
    ('x_2', 'x_2', 'y')
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._counts: Counter[str] = Counter()

    def of(self, column: str) -> str:
        """Returns the name of the field for a column."""
        if column not in self._names:
            self._names[column] = self._new(field_name(column))
        return self._names[column]

    def find(self, text: str) -> str:
        """Returns the name of the field that a user means, by its own name or by that of its column."""
        return self._names.get(text) or (text if text in self._taken else field_name(text))

    def _new(self, name: str) -> str:
        free = name
        while free in self._taken:
            self._counts[name] += 1
            ending = f"_{self._counts[name] + 1}"
            free = name[: 63 - len(ending)] + ending
        self._taken.add(free)
        return free
