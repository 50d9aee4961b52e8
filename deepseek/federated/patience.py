"""Repeats idempotent calls to collaborators that do not respond, e.g. while a service restarts."""

from collections.abc import Callable
from typing import TypeVar

from common.errors import UNANSWERED, Unavailable
from deepseek.federated.ports import Clock

MAX_OUTAGE_S = 600.0
"""Seconds without an answer after which a call is given up."""

_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 8.0

_Result = TypeVar("_Result")


def patiently(call: Callable[[], _Result], clock: Clock, check: Callable[[], None]) -> _Result:
    """Makes an idempotent call, and repeats it until it is answered.

    Args:
        call: Makes the call. It may have taken effect although it raised one of `UNANSWERED`.
        clock: Time.
        check: Called before each repetition. It raises an error to end the wait.

    Raises:
        Unavailable: There was no answer for `MAX_OUTAGE_S`. The error of the last call is not raised, because its
            callers could not distinguish Cancelled from an error of `check`.
        MeshError: The answer, or an error of `check`.
    """
    deadline, pause = clock.monotonic() + MAX_OUTAGE_S, _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UNANSWERED as error:
            if clock.monotonic() >= deadline:
                raise Unavailable(error.reason, error.message) from error
        check()
        clock.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_S)
