"""Text from outside, such as keys and labels of samples, made safe for a terminal."""

import re

_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_CELLS = re.compile(rf"[{_UNSAFE}\t\n]")
_IN_LINES = re.compile(rf"[{_UNSAFE}]")


def visible(text: str, *, has_lines: bool = False) -> str:
    r"""Returns a text in which no character controls the terminal: each is replaced by its escape sequence.

    These are the control characters, among them the start of terminal sequences, as well as line separators,
    bidirectional controls and lone surrogates.

    >>> visible("red\x1b[2J\n")
    'red\\x1b[2J\\n'

    Args:
        text: The text.
        has_lines: Whether line breaks and tabs are kept.
    """
    return (_IN_LINES if has_lines else _IN_CELLS).sub(lambda found: ascii(found[0])[1:-1], text)
