"""Ctrl-C that is not lost.

Python drops a KeyboardInterrupt that strikes while an object is being finalised, and channels come and go while
services are waited for. So it is remembered besides, and looked at wherever a long command goes on to its next step.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_struck = threading.Event()
_last_words = ["stopped"]


def remember_interrupts() -> None:
    """Keeps every Ctrl-C from now on for `check_interrupted`; it is raised as ever, too."""
    signal.signal(signal.SIGINT, _strike)


def check_interrupted() -> None:
    """Returns unless Ctrl-C was pressed.

    Raises:
        KeyboardInterrupt: It was.
    """
    if _struck.is_set():
        raise KeyboardInterrupt


@contextmanager
def when_interrupted(text: str) -> Iterator[None]:
    """Replaces the message `stopped` if Ctrl-C ends the command in this block, because its work continues elsewhere."""
    _last_words.append(text)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        _last_words.pop()
        raise
    else:
        _last_words.pop()


def last_words() -> str:
    """The message after Ctrl-C."""
    return _last_words[-1]


def _strike(number: int, frame: FrameType | None) -> NoReturn:
    _struck.set()
    raise KeyboardInterrupt
