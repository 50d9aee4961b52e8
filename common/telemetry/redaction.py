"""Masks secrets in text that leaves the process.

Our own code logs no secrets. This module covers the messages of other code, such as a driver that logs its URL or a
library that logs a header.
"""

import re

MASK = "[redacted]"

_SECRET_NAME = (
    r"[\w-]*(?:authorization|passw(?:or)?d|secret|token|api[_-]?key|private[_-]?key)(?![\w-]*_?(?:file|path))"
)
_NAME = re.compile(rf"{_SECRET_NAME}[\w-]*", re.IGNORECASE)
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"), MASK),  # a JWT: base64 of `{"`
    (re.compile(r"(://[^\s/:@]*):[^\s/]+@"), rf"\1:{MASK}@"),
    (re.compile(rf"\b({_SECRET_NAME}[\w-]*['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&)}}]+", re.IGNORECASE), rf"\1{MASK}"),
)


def redact(text: str) -> str:
    """Masks bearer tokens, JWTs, private keys, passwords in URLs, and values whose names suggest a secret.

    >>> redact("postgresql://mesh:hunter2@db/mesh refused, token=abc")
    'postgresql://mesh:[redacted]@db/mesh refused, token=[redacted]'
    """
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def names_secret(name: str) -> bool:
    """Returns whether a name suggests that its value is a secret. The path of a file with a secret is not a secret."""
    return _NAME.fullmatch(name) is not None
