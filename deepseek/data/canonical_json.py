"""Writes canonical JSON, and validates untrusted JSON while reading it.

Manifests are addressed by the SHA-256 of their bytes, so equal content must give equal bytes. Therefore keys are
sorted, spaces are omitted, non-ASCII text is not escaped, and numbers are finite. The reader checks size, nesting,
repeated and unknown keys, types and ranges. Each error states the path of the invalid value. There is no schema
language: the code that reads a format defines the format through its calls to `Node`.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from common.errors import InvalidArgument

MAX_BYTES = 64 << 20
"""Maximum size of a document that is read, in bytes."""


def dumps(value: Any) -> bytes:
    """Returns the canonical UTF-8 bytes of a JSON value. Equal values give equal bytes.

    Args:
        value: Dict with string keys, list, string, integer, finite float, boolean or None. May be nested.

    Raises:
        ValueError: A float is not finite, or a string is not valid Unicode.

    >>> dumps({"b": [1, 2.5], "a": "ü"})
    b'{"a":"\\xc3\\xbc","b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(data: bytes, *, reason: str, document: str) -> "Node":
    """Parses an untrusted JSON document and returns its root.

    Args:
        data: Document in UTF-8.
        reason: Reason code of every InvalidArgument error about the document, e.g. `BAD_MANIFEST`.
        document: Name of the document, e.g. `dataset_manifest`. All paths in error messages start with this name.

    Raises:
        InvalidArgument: The document is too large, is not valid UTF-8 or JSON, is nested too deeply, or has an object
            with a repeated key.
    """
    root = Node(None, document, reason)
    if len(data) > MAX_BYTES:
        root.fail(f"has {len(data)} bytes; at most {MAX_BYTES} are read")

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
    """One value of an untrusted document, together with the path of the value.

    Args:
        value: Value as returned by `json.loads`.
        path: Path of the value, e.g. `dataset_manifest.fields[0].name`.
        reason: Reason code of every InvalidArgument error about the value.
    """

    def __init__(self, value: Any, path: str, reason: str) -> None:
        self._value = value
        self.path = path
        self._reason = reason

    def fail(self, problem: str) -> NoReturn:
        """Raises InvalidArgument with the message `<path of this value> <problem>`.

        Args:
            problem: What is wrong with the value, e.g. `is not a string`.
        """
        raise InvalidArgument(self._reason, f"{self.path} {problem}", field=self.path)

    def object(self, *keys: str, optional: Sequence[str] = ()) -> dict[str, "Node"]:
        """Returns the members of an object. It must have all of `keys`; any other key must be one of `optional`."""
        members = self.mapping()
        for key in members:
            if key not in keys and key not in optional:
                self.fail(f"has the unknown key {key[:80]!r}")
        for key in keys:
            if key not in members:
                self.fail(f"lacks the key {key!r}")
        return members

    def mapping(self, *, max_items: int = 100_000) -> dict[str, "Node"]:
        """Returns the members of an object that may have any keys."""
        if not isinstance(self._value, dict):
            self.fail("is not an object")
        if len(self._value) > max_items:
            self.fail(f"has {len(self._value)} members; at most {max_items} are read")
        return {key: Node(value, f"{self.path}.{key[:80]}", self._reason) for key, value in self._value.items()}

    def array(self, *, max_items: int = 100_000) -> "list[Node]":
        """Returns the items of an array."""
        if not isinstance(self._value, list):
            self.fail("is not an array")
        if len(self._value) > max_items:
            self.fail(f"has {len(self._value)} items; at most {max_items} are read")
        return [Node(value, f"{self.path}[{i}]", self._reason) for i, value in enumerate(self._value)]

    def string(self, pattern: re.Pattern[str] | None = None, *, choices: Iterable[str] | None = None) -> str:
        """Returns the value, which must be a valid Unicode string.

        Args:
            pattern: Pattern that the whole string must match, if given.
            choices: Allowed strings, if given.
        """
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
        """Returns whether the value is null."""
        return self._value is None

    def boolean(self) -> bool:
        """Returns the value, which must be a boolean."""
        if not isinstance(self._value, bool):
            self.fail("is not true or false")
        return self._value

    def integer(self, *, minimum: int = 0) -> int:
        """Returns the value, which must be a signed 64-bit integer that is at least `minimum`."""
        if not isinstance(self._value, int) or isinstance(self._value, bool):
            self.fail("is not an integer")
        if not minimum <= self._value < 1 << 63:
            self.fail(f"is out of range; it must be at least {minimum} and fit into 64 bits")
        return self._value

    def number(self) -> float:
        """Returns the value as a float. It must be a finite number."""
        value = self._value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail("is not a number")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            self.fail("is out of range")
        if not math.isfinite(value):
            self.fail("is not a finite number")
        return float(value)

    def json_object(self) -> dict[str, Any]:
        """Returns an object as a dict, after checking that `dumps` accepts it."""
        if not isinstance(self._value, dict):
            self.fail("is not an object")
        try:
            dumps(self._value)
        except ValueError:
            self.fail("contains a number that is not finite or a string that is not valid Unicode")
        except RecursionError:  # nesting that `parse` accepted may be too deep for the stack here
            self.fail("is nested too deeply")
        return self._value


def is_unicode(text: str) -> bool:
    """Returns whether a string can be encoded as UTF-8, i.e. whether it has no lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
