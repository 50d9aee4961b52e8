"""Ctrl-C that is not lost.

Python drops a KeyboardInterrupt that strikes while an object is being finalised, and channels come and go while
services are waited for. So it is remembered besides, and looked at wherever a long command goes on to its next step.
"""

import signal
import threading
from types import FrameType
from typing import NoReturn

_struck = threading.Event()


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


def _strike(number: int, frame: FrameType | None) -> NoReturn:
    _struck.set()
    raise KeyboardInterrupt
