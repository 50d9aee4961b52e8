"""Follows the child process of a job until it finishes, fails or must stop."""

import time
from collections.abc import Callable
from typing import Any

from common.jobs.child import ChildProcess, reported_error
from common.jobs.lease import Lease, LeaseLost

_POLL_S = 0.1


class Crashed(Exception):
    """The child process ended without reporting a result. The exception's message is the end of the child's log."""


def follow(
    lease: Lease,
    child: ChildProcess,
    *,
    timeout_s: float = float("inf"),
    on_warning: Callable[[str], None] | None = None,
) -> dict[str, Any] | None:
    """Waits for a child process, and passes its progress on to the job.

    Args:
        lease: Lease of the job.
        child: The process.
        timeout_s: Time limit, in seconds.
        on_warning: Called with each warning of the child; by default, warnings are ignored.

    Returns:
        The event `finished` of the child; None if the job was cancelled or this process is stopping.

    Raises:
        MeshError: The error that the child reported.
        Crashed: The child crashed.
        TimeoutError: The child did not finish in time.
        LeaseLost: Another worker has taken over the job.
    """
    end = time.monotonic() + timeout_s
    while True:
        ended = child.wait(_POLL_S)
        for event in child.events():
            match event["kind"]:
                case "progress":
                    lease.update(progress=event["progress"], message=event["message"])
                case "warning" if on_warning is not None:
                    on_warning(event["message"])
                case "finished":
                    child.wait_for_span_export()
                    return event
                case "failed":
                    raise reported_error(event)
        if lease.lost.is_set():
            raise LeaseLost
        if lease.cancelled.is_set() or lease.stopping.is_set():
            return None
        if ended:
            raise Crashed(child.log_tail())
        if time.monotonic() > end:
            raise TimeoutError
