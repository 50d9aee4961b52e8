"""The user's instructions about the schema: overrides, the target, and values for missing cells.

| written | means |
| --- | --- |
| `--schema quality:label,id:skip` | the types of these columns; `skip` leaves a column out; others are inferred |
| `--schema tags:text[]` | each sample has a list of values |
| `--schema schema.json` | the complete schema: a list of fields, or an object with the member `fields` |
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from common.text_files import NotUtf8, read_text
from deepseek.data.manifest import FIELD_TYPES, Field, check_schema

SKIP = "skip"
"""Type of a column that is left out."""

_PAIR = re.compile(r"(?P<name>.+):(?P<type>\w+)(?P<repeated>\[\])?")


@dataclass(frozen=True)
class Override:
    """Type that the user has chosen for a column.

    Attributes:
        type: One of FIELD_TYPES, or SKIP.
        repeated: Whether each sample has a list of values.
    """

    type: str
    repeated: bool = False


@dataclass(frozen=True)
class Wishes:
    """The user's instructions. Columns are named as in the source or by the name of their field.

    Attributes:
        fields: Complete schema; empty if it is to be inferred.
        overrides: Types of single columns.
        target: Column to predict. A column of text or integers becomes a label.
        fills: Values for missing cells by column.
        key: Column that holds the keys; empty if the source proposes them.
    """

    fields: tuple[Field, ...] = ()
    overrides: Mapping[str, Override] = field(default_factory=dict)
    target: str = ""
    fills: Mapping[str, str] = field(default_factory=dict)
    key: str = ""


def read_schema(text: str) -> tuple[tuple[Field, ...], dict[str, Override]]:
    """Reads the value of `--schema`; see the table of this module.

    >>> read_schema("quality:label,id:skip")[1]["id"]
    Override(type='skip', repeated=False)

    Returns:
        The complete schema, or the overrides; the other one is empty.

    Raises:
        InvalidArgument: BAD_SCHEMA.
    """
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        try:
            return fields_from_json(json.loads(read_text(path))), {}
        except (OSError, ValueError) as error:  # also NotUtf8 and JSONDecodeError
            problem = error if isinstance(error, NotUtf8) else f"cannot be read as JSON: {error}"
            raise InvalidArgument("BAD_SCHEMA", f"{path} {problem}", field="schema") from error
    overrides = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _PAIR.fullmatch(part)
        if not found or found["type"] not in (*FIELD_TYPES, SKIP):
            message = f"{part[:80]!r} is not of the form COLUMN:TYPE with one of: {', '.join((*FIELD_TYPES, SKIP))}"
            raise InvalidArgument("BAD_SCHEMA", message, field="schema")
        overrides[found["name"]] = Override(found["type"], bool(found["repeated"]))
    return (), overrides


def read_fills(parts: Sequence[str]) -> dict[str, str]:
    """Reads the values of `--fill`, each `COLUMN=VALUE`.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    found = {}
    for part in parts:
        column, equals, value = part.partition("=")
        if not equals or not column:
            raise InvalidArgument("BAD_VALUE", f"{part[:80]!r} is not of the form COLUMN=VALUE", field="fill")
        found[column] = value
    return found


def fields_from_json(document: Any) -> tuple[Field, ...]:
    """Reads the fields of a schema file or of the description of an export.

    Raises:
        InvalidArgument: BAD_SCHEMA.
    """
    listed: Any = document.get("fields") if isinstance(document, dict) else document
    try:
        fields = tuple(
            Field(
                str(one["name"]),
                str(one["type"]),
                bool(one.get("repeated", False)),
                tuple(str(label) for label in one.get("labels", ())),
            )
            for one in listed
        )
    except (KeyError, TypeError, AttributeError) as error:
        message = 'the schema must be a list of fields, each like {"name": "image", "type": "image"}'
        raise InvalidArgument("BAD_SCHEMA", message, field="schema") from error
    check_schema(fields)
    return fields


def fields_to_json(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Returns fields in the form that `fields_from_json` reads."""
    return [
        {"name": one.name, "type": one.type, "repeated": one.repeated, "labels": list(one.labels)} for one in fields
    ]
