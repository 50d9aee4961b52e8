"""Reliable handling of Ctrl-C.

Python drops a KeyboardInterrupt that is raised in a finalizer, e.g. the `__del__` of a call that has ended. It is
therefore raised only after the finalizer has returned. Code in C may drop it, too. Each press of Ctrl-C is therefore
also recorded, and a long command checks this record before each step.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A plain flag: a second press that arrives while the handler sets a threading.Event would wait for ever.
_pressed = False
_FINALIZER_POLL_S = 0.01
_messages: list[str | Callable[[], str]] = ["stopped"]


def remember_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt and also record the press for `check_interrupted`."""
    signal.signal(signal.SIGINT, _on_interrupt)
    signal.signal(signal.SIGALRM, _on_interrupt)


def check_interrupted() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed, in case Python has dropped the original KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _pressed:
        raise KeyboardInterrupt


def is_interruption(error: BaseException) -> bool:
    """Returns whether an error is due to Ctrl-C.

    An error other than KeyboardInterrupt is too if it follows the press: a wait of the standard library, for example,
    raises `RuntimeError: cannot release un-acquired lock` if it is interrupted just as it begins.
    """
    return _pressed or isinstance(error, KeyboardInterrupt)


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
    except BaseException as error:
        if not is_interruption(error):
            _messages.pop()
        raise
    else:
        _messages.pop()


def interrupt_message() -> str:
    """Returns the message to show after Ctrl-C has ended the command."""
    text = _messages[-1]
    return text if isinstance(text, str) else text()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    if _is_in_finalizer(frame):
        signal.setitimer(signal.ITIMER_REAL, _FINALIZER_POLL_S)  # calls this function again
        return
    raise KeyboardInterrupt


def _is_in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
