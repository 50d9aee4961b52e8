"""Canonical JSON, and typed reading of JSON that strangers may have written.

Manifests are addressed by the SHA-256 of their bytes, so equal content must give equal bytes: keys sorted, no
spaces, UTF-8 unescaped, finite numbers only. Reading trusts nothing: size, nesting, repeated keys, unknown keys, types
and ranges are checked where a value is taken, and every complaint names the value's path.

It is not a schema language: a format's own module says what it expects by the calls it makes.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from common.errors import InvalidArgument

MAX_BYTES = 64 << 20
"""Largest document that `parse` takes, bytes."""


def dumps(value: Any) -> bytes:
    """Writes a JSON value canonically.

    Args:
        value: Dicts with string keys, lists, strings, integers, finite floats, booleans, None.

    Returns:
        UTF-8 bytes, the same for equal values.

    Raises:
        ValueError: A float is not finite, or a string is not valid Unicode.

    >>> dumps({"b": [1, 2.5], "a": "ü"})
    b'{"a":"\\xc3\\xbc","b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(data: bytes, *, reason: str, document: str) -> "Node":
    """Parses an untrusted JSON document.

    Args:
        data: The document, UTF-8.
        reason: Reason of every InvalidArgument about it, e.g. `BAD_MANIFEST`.
        document: What it is, for messages and as the first part of paths, e.g. `dataset_manifest`.

    Returns:
        The document's root.

    Raises:
        InvalidArgument: It is too large, not UTF-8, not JSON, nested too deeply or repeats a key.
    """
    root = Node(None, document, reason)
    if len(data) > MAX_BYTES:
        root.fail(f"is {len(data)} bytes; at most {MAX_BYTES} are read")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice in one object")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also JSONDecodeError, UnicodeDecodeError, huge integers
        root.fail(f"is not valid JSON: {str(error)[:200]}")
    return Node(value, document, reason)


class Node:
    """One value of an untrusted document, with the path it was found at.

    Args:
        value: The value as `json.loads` gives it.
        path: Where it is, e.g. `dataset_manifest.fields[0].name`.
        reason: Reason of every InvalidArgument about it.
    """

    def __init__(self, value: Any, path: str, reason: str) -> None:
        self._value = value
        self.path = path
        self._reason = reason

    def fail(self, problem: str) -> NoReturn:
        """Raises InvalidArgument about this value; `problem` goes on from the path, e.g. `is not a string`."""
        raise InvalidArgument(self._reason, f"{self.path} {problem}", field=self.path)

    def object(self, *keys: str, optional: Sequence[str] = ()) -> dict[str, "Node"]:
        """Accepts an object that has all of these keys and no others except the optional ones."""
        members = self.mapping()
        for key in members:
            if key not in keys and key not in optional:
                self.fail(f"has the unknown key {key[:80]!r}")
        for key in keys:
            if key not in members:
                self.fail(f"lacks the key {key!r}")
        return members

    def mapping(self, *, max_items: int = 100_000) -> dict[str, "Node"]:
        """Takes an object with any keys."""
        if not isinstance(self._value, dict):
            self.fail("is not an object")
        if len(self._value) > max_items:
            self.fail(f"has {len(self._value)} members; at most {max_items} are read")
        return {key: Node(value, f"{self.path}.{key[:80]}", self._reason) for key, value in self._value.items()}

    def array(self, *, max_items: int = 100_000) -> "list[Node]":
        """Takes an array."""
        if not isinstance(self._value, list):
            self.fail("is not an array")
        if len(self._value) > max_items:
            self.fail(f"has {len(self._value)} items; at most {max_items} are read")
        return [Node(value, f"{self.path}[{i}]", self._reason) for i, value in enumerate(self._value)]

    def string(self, pattern: re.Pattern[str] | None = None, *, choices: Iterable[str] | None = None) -> str:
        """Takes a string of valid Unicode that matches a whole pattern, or is one of the choices."""
        value = self._value
        if not isinstance(value, str):
            self.fail("is not a string")
        if not is_unicode(value):
            self.fail("is not valid Unicode")
        if pattern is not None and not pattern.fullmatch(value):
            self.fail(f"is {value[:80]!r}; it must match {pattern.pattern}")
        if choices is not None and value not in (known := tuple(choices)):
            self.fail(f"is {value[:80]!r}; it must be one of {', '.join(known)}")
        return value

    def is_null(self) -> bool:
        """Tells whether the value is null."""
        return self._value is None

    def boolean(self) -> bool:
        """Takes true or false."""
        if not isinstance(self._value, bool):
            self.fail("is not true or false")
        return self._value

    def integer(self, *, minimum: int = 0) -> int:
        """Takes an integer of at least `minimum` that fits 64 bits."""
        if not isinstance(self._value, int) or isinstance(self._value, bool):
            self.fail("is not an integer")
        if not minimum <= self._value < 1 << 63:
            self.fail(f"is out of range; it must be at least {minimum} and fit 64 bits")
        return self._value

    def number(self) -> float:
        """Takes a finite number."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail("is not a number")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            self.fail("is out of range")
        if not math.isfinite(value):
            self.fail("is not a finite number")
        return float(value)

    def json_object(self) -> dict[str, Any]:
        """Takes an object as it stands, after checking that it can be written canonically."""
        if not isinstance(self._value, dict):
            self.fail("is not an object")
        try:
            dumps(self._value)
        except ValueError:
            self.fail("holds a number that is not finite or a string that is not valid Unicode")
        except RecursionError:  # what could just be parsed may be too much where the stack is deeper
            self.fail("is nested too deeply")
        return self._value


def is_unicode(text: str) -> bool:
    """Tells whether a string can be written as UTF-8, i.e. has no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
