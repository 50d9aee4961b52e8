"""Reliable handling of Ctrl-C.

Python drops a KeyboardInterrupt that is raised while an object is finalized, e.g. a channel that a command frees while
it waits for services. Each press of Ctrl-C is therefore also recorded, and a long command checks this record before
each step.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# A plain flag: a second press that arrives while the handler sets a threading.Event would wait for ever.
_pressed = False
_messages: list[str | Callable[[], str]] = ["stopped"]


def remember_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt and also record the press for `check_interrupted`."""
    signal.signal(signal.SIGINT, _on_interrupt)


def check_interrupted() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed, in case Python has dropped the original KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _pressed:
        raise KeyboardInterrupt


@contextmanager
def when_interrupted(text: str | Callable[[], str]) -> Iterator[None]:
    """Sets the message to show if Ctrl-C ends the command inside the `with` block. The default message is `stopped`.

    Commands use it to say what happened to their work, e.g. that it continues in the mesh or can be resumed.

    Args:
        text: The message, or a function that returns it when it is shown.
    """
    _messages.append(text)
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        _messages.pop()
        raise
    else:
        _messages.pop()


def interrupt_message() -> str:
    """Returns the message to show after Ctrl-C has ended the command."""
    text = _messages[-1]
    return text if isinstance(text, str) else text()


def _on_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _pressed
    _pressed = True
    raise KeyboardInterrupt
