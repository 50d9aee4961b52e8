"""Derives the schema of a source from its rows, its declarations and the user's wishes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common.errors import InvalidArgument
from deepseek.data.manifest import Field, check_schema
from deepseek.data.rejected import Rejected
from deepseek.data.statistics import FieldStatistics
from deepseek.interchange.columns import Column, in_label_order
from deepseek.interchange.field_names import FieldNames, field_name
from deepseek.interchange.fills import AVERAGES, average, check_stated, is_average
from deepseek.interchange.joined import LABEL
from deepseek.interchange.schema import SKIP, Override, Wishes
from deepseek.interchange.source import Blob, Hint, Row, Source

MAX_INTEGER_CLASSES = 100
"""A target of integers becomes a label if it has at most this many distinct values, otherwise it stays a number."""

_MAX_MISSING_SHARE = 0.5
_Wish = TypeVar("_Wish")


@dataclass(frozen=True)
class Plan:
    """How the rows of a source become samples.

    Attributes:
        fields: Schema.
        names: Names of the fields by column.
        class_names: Fields whose integers are indexes into the labels.
        fills: Values for missing cells by field.
        notices: Sentences about decisions that the user may want to change.
        num_rows: Number of rows that were read, with those that cannot be read; None if the schema was given, so the
            rows were not read.
        is_export: Whether the schema is the one that an export of a data set version recorded.
    """

    fields: tuple[Field, ...]
    names: FieldNames
    class_names: frozenset[str] = frozenset()
    fills: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    num_rows: int | None = None
    is_export: bool = False


def infer(
    source: Source, wishes: Wishes, *, split_column: str = "", on_row: Callable[[int], None] = lambda number: None
) -> Plan:
    """Reads a source once and returns the plan for its import.

    Args:
        source: Source, which is not read if `wishes.fields` or the source itself states the complete schema.
        wishes: The user's instructions.
        split_column: Column that holds the split, which becomes no field; empty if there is none.
        on_row: Called for each row, with the number of rows read so far.

    Raises:
        InvalidArgument: EMPTY_SOURCE; UNKNOWN_FIELD if a wish names a column that the source does not have; BAD_SCHEMA;
            ONE_CLASS if a label has only one value.
    """
    declared = source.declared()
    hints = {name: hint for name, hint in declared.hints.items() if hint.labels}
    recorded = () if wishes.overrides or wishes.target else declared.fields
    if fields := wishes.fields or recorded:
        check_schema(fields)
        indexed = frozenset(map(field_name, hints)) & {one.name for one in fields if one.type == "label"}
        names = FieldNames()
        fills = {names.find(name): value for name, value in wishes.fills.items()}
        if unknown := sorted(fills.keys() - {one.name for one in fields}):
            message = f"the schema has no field {unknown[0][:80]!r}; its fields are: {', '.join(map(str, fields))}"
            raise InvalidArgument("UNKNOWN_FIELD", message, field="fill")
        check_stated(fields, fills)
        return Plan(fields, names, indexed, fills, declared.notices, is_export=not wishes.fields)
    scan = _Scan(wishes, declared.hints, notices=list(declared.notices))
    scan.read(source, on_row)
    scan.check_names(split_column)
    return scan.plan({split_column, wishes.key})


@dataclass
class _Scan:
    """The columns of a source, with what the user and the source say about them.

    Attributes:
        num_rows: Number of rows that can be read.
        lone: Number of rows that consist of a single file, by column.
        first_lone: Place of the first of these rows, by column.
    """

    wishes: Wishes
    hints: Mapping[str, Hint]
    names: FieldNames = field(default_factory=FieldNames)
    columns: dict[str, Column] = field(default_factory=dict)
    num_rows: int = 0
    num_rejected: int = 0
    rejected: Rejected | None = None
    lone: Counter[str] = field(default_factory=Counter)
    first_lone: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    categorical: list[str] = field(default_factory=list)

    def read(self, source: Source, on_row: Callable[[int], None]) -> None:
        for number, row in enumerate(source.rows(), 1):
            on_row(number)
            if isinstance(row, Rejected):
                self.rejected = self.rejected or row
                self.num_rejected += 1
                continue
            self.num_rows += 1
            self._add_lone(row)
            for name, value in row.values.items():
                if name not in self.columns:
                    numbers = FieldStatistics() if self._wish(self.wishes.fills, name) in AVERAGES else None
                    self.columns[name] = Column(source.is_typed, self._is_label(name), numbers=numbers)
                self.columns[name].add(value)
        if not self.num_rows:
            first = f"; the first problem: {self.rejected.message}" if self.rejected else ""
            raise InvalidArgument("EMPTY_SOURCE", f"the source has no rows that can be read{first}", field="source")

    def _add_lone(self, row: Row) -> None:
        own = row.values.keys() - {LABEL}
        if len(own) == 1 and isinstance(row.values[name := own.pop()], Blob):
            self.lone[name] += 1
            self.first_lone.setdefault(name, row.place)

    def check_names(self, split_column: str) -> None:
        """Checks that each column that the user names exists."""
        known = {"", *(alias for name in self.columns for alias in (name, self.names.of(name)))}
        named: Mapping[str, Iterable[str]] = {
            "target": [self.wishes.target],
            "key": [self.wishes.key],
            "split_column": [split_column],
            "fill": self.wishes.fills,
            "schema": self.wishes.overrides,
        }
        for option, names in named.items():
            if unknown := [name for name in names if name not in known]:
                message = f"there is no column {unknown[0][:80]!r}; the columns are: {', '.join(self.columns)}"
                raise InvalidArgument("UNKNOWN_FIELD", message, field=option)

    def plan(self, apart: set[str]) -> Plan:
        """Returns the plan.

        Args:
            apart: Columns that become no field, unless the user states a type for them.
        """
        fields = []
        apart = set(map(self.names.find, apart - {""}))
        for name, column in self.columns.items():
            if self.names.of(name) in apart and not self._override(name):
                continue
            if found := self._field(name, column):
                fields.append(found)
        self._check(fields)
        self._note_names(fields)
        self._note_lone_files(fields)
        target = self.names.find(self.wishes.target) if self.wishes.target else ""
        if self.categorical:
            message = f"text with few distinct values becomes a label: {', '.join(self.categorical)}"
            self.notices.append(f"{message}; --schema '{self.categorical[0]}:text' changes it")
        indexed = {self.names.of(name) for name, hint in self.hints.items() if hint.labels}
        return Plan(
            tuple(sorted(fields, key=lambda one: 2 if one.name == target else one.type == "label")),
            self.names,
            frozenset(indexed & {one.name for one in fields if one.type == "label"}),
            self._fills(fields),
            self.notices,
            self.num_rows + self.num_rejected,
        )

    def _note_names(self, fields: Sequence[Field]) -> None:
        """Notes which columns are stored under another name."""
        used = {one.name for one in fields}
        renamed = {name: own for name in self.columns if (own := self.names.of(name)) != name and own in used}
        if len(renamed) == 1:
            ((name, own),) = renamed.items()
            self.notices.append(f"column {name!r} is stored as the field {own!r}")
        elif renamed:
            pairs = ", ".join(f"{name!r} as {own!r}" for name, own in renamed.items())
            self.notices.append(f"{len(renamed)} columns are stored as fields of other names: {pairs}")

    def _note_lone_files(self, fields: Sequence[Field]) -> None:
        """Notes files that are no samples, because they lack the file that the other samples have."""
        filled = set(map(self.names.find, self.wishes.fills))
        required = {one.name: one.type for one in fields if not one.repeated and one.name not in filled}
        for name, count in self.lone.items():
            lacking = {kind for own, kind in required.items() if own != self.names.of(name)} & {"image", "audio"}
            if lacking:
                kinds = " or ".join({"image": "images", "audio": "sounds"}[kind] for kind in sorted(lacking))
                more = f" and {count - 1} more" if count > 1 else ""
                self.notices.append(f"files that are not {kinds} are kept aside: {self.first_lone[name]}{more}")

    def _fills(self, fields: Sequence[Field]) -> dict[str, Any]:
        """Returns the values for missing cells by field, and notes those that are computed."""
        found: dict[str, Any] = {self.names.find(name): value for name, value in self.wishes.fills.items()}
        numbers = {self.names.of(name): column.numbers for name, column in self.columns.items() if column.numbers}
        for one in fields:
            if is_average(word := found.get(one.name, ""), one):
                found[one.name] = average(word, numbers[one.name], one)
                self.notices.append(f"missing values of {one.name} are set to the {word}, {found[one.name]}")
        return found

    def _check(self, fields: Sequence[Field]) -> None:
        if not fields:
            message = f"no column is left; the columns are: {', '.join(self.columns)}"
            raise InvalidArgument("BAD_SCHEMA", message, field="schema")
        check_schema(fields)

    def _field(self, name: str, column: Column) -> Field | None:
        override, hint = self._override(name), self.hints.get(name, Hint())
        if override and override.type == SKIP:
            return None
        kind = (override.type if override else "") or hint.type or column.type(is_target=self._is_target(name))
        if kind == "label" and not override and self._is_regression(name, column, hint):
            kind = "integer"
            self.notices.append(f"{name} has many values and stays an integer; --schema '{name}:label' changes it")
        if kind == "text" and not override and not hint.type:
            kind = self._text_or_label(name, column)
        named = override or self._is_target(name) or self.names.of(name) in map(self.names.find, self.wishes.fills)
        if not kind or (not named and self._is_sparse(name, column, kind)):
            if not kind:
                self.notices.append(f"{name} has no values and is left out")
            return None
        repeated = override.repeated if override else column.num_lists * 2 > column.num_present
        labels = self._labels(name, column, hint) if kind == "label" else ()
        return Field(self.names.of(name), kind, repeated, labels)

    def _text_or_label(self, name: str, column: Column) -> str:
        """Returns the type of a column that holds text: `label` if it is categorical and each row has a value."""
        numbers, texts = column.kinds["integer"] + column.kinds["number"], column.kinds["text"]
        num_missing = self.num_rows - texts
        if numbers and 4 * numbers >= texts:
            message = f"{name} holds {numbers} numbers and {texts} other texts, so its type is text"
            self.notices.append(f"{message}; --schema '{name}:number' keeps the rows with other texts aside")
        elif numbers:
            return "text"
        elif column.is_categorical and not num_missing:
            column.labels = set(column.categories or ())
            self.categorical.append(name)
            return "label"
        elif column.is_categorical and num_missing <= _MAX_MISSING_SHARE * self.num_rows:
            message = f"{name} has few distinct values, but {num_missing} rows have none, so its type is text"
            self.notices.append(f"{message}; --schema '{name}:label' --fill '{name}=other' makes it a label")
        return "text"

    def _is_sparse(self, name: str, column: Column, kind: str) -> bool:
        empty = column.kinds["missing"] if kind in ("integer", "number") else column.num_empty
        present = column.num_present - empty
        if self.num_rows - present <= _MAX_MISSING_SHARE * self.num_rows:
            return False
        if present > self.lone[name]:
            keeps = f"--schema '{name}:text'" if kind == "text" else f"--fill '{name}=VALUE'"
            share = f"{present} of {self.num_rows} rows"
            self.notices.append(f"{name} has a value in only {share} and is left out; {keeps} keeps it")
        return True

    def _is_regression(self, name: str, column: Column, hint: Hint) -> bool:
        return (
            not hint.labels
            and self._is_target(name)
            and column.labels is not None
            and not column.kinds["text"]
            and len(column.labels) > MAX_INTEGER_CLASSES
        )

    def _labels(self, name: str, column: Column, hint: Hint) -> tuple[str, ...]:
        if hint.labels:
            return hint.labels
        if column.kinds["bool"] and not column.labels:
            return ("false", "true")
        if (classes := column.classes) is None:
            message = f"{name} has too many distinct values for a label; --schema '{name}:text' makes it text"
            raise InvalidArgument("BAD_SCHEMA", message, field="schema")
        if len(classes) < 2:
            only = next(iter(classes), "")
            message = f"{name} has only the class {only!r}; add others, or leave it out: --schema '{name}:skip'"
            raise InvalidArgument("ONE_CLASS", message, field="schema")
        return in_label_order(classes)

    def _override(self, name: str) -> Override | None:
        return self._wish(self.wishes.overrides, name)

    def _wish(self, wishes: Mapping[str, _Wish], name: str) -> _Wish | None:
        """Returns what the user has said about a column, by its own name or by that of its field."""
        own = self.names.of(name)
        return wishes.get(name) or (wishes.get(own) if own not in self.columns else None)

    def _is_target(self, name: str) -> bool:
        return bool(self.wishes.target) and self.names.find(self.wishes.target) == self.names.of(name)

    def _is_label(self, name: str) -> bool:
        override = self._override(name)
        hint = self.hints.get(name, Hint())
        return (override.type if override else hint.type) == "label" or (self._is_target(name) and not override)
