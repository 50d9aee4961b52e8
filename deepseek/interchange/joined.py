"""Joins the files of one sample, which have the same name but different extensions, into the columns of a row."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from common.errors import InvalidArgument
from deepseek.interchange.kinds import kind_of_content, kind_of_name
from deepseek.interchange.source import Blob

_NUMBERED = re.compile(r"(.+)-[0-9]{1,6}")

LABEL = "label"
"""Column of the class of a file: the name of the class folder, or the content of a `.cls` file."""


def columns(parts: Iterable[tuple[str, Blob]]) -> Mapping[str, Any]:
    """Returns the values of a row.

    A file becomes the column `image`, `audio` or `text`, depending on its extension. If the extension has several
    parts, e.g. `mask.png`, the first parts are the name of the column; `view-0.png` and `view-1.png` are a list in the
    column `view`. `.cls` holds a class, and each member of the object in a `.json` file becomes a column.

    Args:
        parts: Extension (all that follows the common name) and content of each file.

    Raises:
        InvalidArgument: BAD_TEXT if a `.json` or `.cls` file cannot be read; UNKNOWN_FILE_TYPE; DUPLICATE_FIELD if two
            files would become the same column.
    """
    found: dict[str, Any] = {}
    for extension, blob in parts:
        name, _, last = extension.rpartition(".")
        if last == "json":
            new = _members(blob)
        elif last == "cls":
            new = {name or LABEL: decoded(blob).strip()}
        else:
            new = {name.replace(".", "_") or file_kind(blob): blob}
        for column, value in new.items():
            if (numbered := _NUMBERED.fullmatch(column)) and isinstance(value, Blob):
                found.setdefault(numbered[1], []).append(value)
                continue
            if column in found:
                message = f"{blob.name} is a second value of {column!r} for the same key; rename one of the files"
                raise InvalidArgument("DUPLICATE_FIELD", message)
            found[column] = value
    return found


def file_kind(blob: Blob) -> str:
    """Returns the field type of a file, from its extension or, if that is unknown, from its content.

    Raises:
        InvalidArgument: UNKNOWN_FILE_TYPE.
    """
    kind = kind_of_name(blob.name) or kind_of_content(blob.read())
    if kind in ("", "bytes"):
        message = f"{blob.name} is not an image, a sound or UTF-8 text; remove it or convert it"
        raise InvalidArgument("UNKNOWN_FILE_TYPE", message)
    return kind


def decoded(blob: Blob) -> str:
    """Returns the content of a text file.

    Raises:
        InvalidArgument: BAD_TEXT, or an error of `Blob.read`.
    """
    from common.text_files import NotUtf8, decode_text

    try:
        return decode_text(blob.read())
    except NotUtf8 as error:
        raise InvalidArgument("BAD_TEXT", f"{blob.name} {error}") from error


def _members(blob: Blob) -> dict[str, Any]:
    try:
        document = json.loads(decoded(blob))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("BAD_TEXT", f"{blob.name} is not valid JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("BAD_TEXT", f"{blob.name} must hold a JSON object, not {type(document).__name__}")
    return document
