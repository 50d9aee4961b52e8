"""Fields of a run spec that the parameters of a trial set: their paths, and how values get there.

A path consists of names of fields and keys, separated by dots, and of indices of list entries in brackets, e.g.
`inputs[0].encoder.params.size`.
"""

import re
from collections.abc import Sequence
from typing import Any

from common.errors import InvalidArgument
from deepseek.search.space import Value

Path = tuple[str | int, ...]

MAX_PATH = 200
_PATH = re.compile(r"[\w-]+(?:\[\d{1,4}\])*(?:\.[\w-]+(?:\[\d{1,4}\])*)*")
_PARTS = re.compile(r"[\w-]+|\[\d+\]")


def read_path(text: str, *, field: str) -> Path:
    """Returns the parts of a path.

    Raises:
        InvalidArgument: BAD_PATH.

    >>> read_path("inputs[0].encoder.params.size", field="fields[0].field")
    ('inputs', 0, 'encoder', 'params', 'size')
    """
    if len(text) > MAX_PATH or not _PATH.fullmatch(text):
        message = f"{text[:80]!r} is not the path of a field; write e.g. optimizer.params.lr or inputs[0].field"
        raise InvalidArgument("BAD_PATH", message, field=field)
    parts: list[str | int] = []
    for found in _PARTS.findall(text):
        parts.append(int(found[1:-1]) if found.startswith("[") else found)
    return tuple(parts)


def overlap(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Returns the indices of two paths that set the same field, or of which one contains the other; None without."""
    for later in range(len(paths)):
        for earlier in range(later):
            shorter, longer = sorted((paths[earlier], paths[later]), key=len)
            if longer[: len(shorter)] == shorter:
                return earlier, later
    return None


def put(document: dict[str, Any], path: Path, value: Value, *, field: str) -> None:
    """Sets a field of a run spec in its JSON form. Objects that are missing are created; list entries must exist.

    Raises:
        InvalidArgument: BAD_PATH.
    """
    place: Any = document
    for depth, key in enumerate(path):
        where = _text(path[: depth + 1])
        if isinstance(key, int):
            if not isinstance(place, list):
                raise InvalidArgument("BAD_PATH", f"{_text(path[:depth])} is not a list", field=field)
            if key >= len(place):
                message = f"there is no {where}; the list has {len(place)} entries"
                raise InvalidArgument("BAD_PATH", message, field=field)
        elif not isinstance(place, dict):
            raise InvalidArgument("BAD_PATH", f"{_text(path[:depth])} has no fields", field=field)
        if depth + 1 == len(path):
            place[key] = value
        elif isinstance(key, int) or place.get(key) is not None:
            place = place[key]
        else:
            place[key] = {}
            place = place[key]


def _text(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
