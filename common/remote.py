"""Support for calls to other services: restates their errors in terms of our request, and repeats unanswered calls."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

from common.errors import UNANSWERED, InvalidArgument, NotFound
from common.jobs.lease import Lease, LeaseLost

RETRY_INTERVAL_S = 1.0

T = TypeVar("T")


@contextmanager
def relabelled(
    field: str, *, not_found: str = "", field_of_reason: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """Converts errors about a call's arguments, inside the `with` block, to errors about a field of our own request.

    The callee's error names a field of the callee's request, which our caller has never seen. Only `InvalidArgument`
    and `NotFound` count as errors about arguments; other errors pass through unchanged.

    Args:
        field: Field of our request that provides the arguments of the call.
        not_found: Reason to use for every `NotFound` error; empty keeps the callee's reason.
        field_of_reason: Fields to use instead of `field`, keyed by the reason of the callee's error.

    Raises:
        InvalidArgument, NotFound: The error that the block raised, with our field and reason.
    """
    try:
        yield
    except (InvalidArgument, NotFound) as error:
        reason = not_found if not_found and isinstance(error, NotFound) else error.reason
        raise type(error)(reason, error.message, field=field_of_reason.get(error.reason, field)) from error


def until_answered(lease: Lease, call: Callable[[], T], *, callee: str, cancellable: bool) -> T | None:
    """Makes an idempotent call on behalf of a job, and repeats it until the other service responds.

    Args:
        lease: Lease on the job. While the job waits, its message names the callee.
        call: Function that makes the call, with the same request id every time.
        callee: Name of the other service, for the job's message.
        cancellable: Whether to stop waiting if the job is cancelled. Must be false if the call may already have taken
            effect and the outcome of the job depends on its response.

    Returns:
        The response; None if no response arrived before this process began to stop or a cancellable job was cancelled.

    Raises:
        LeaseLost: Another worker has the job.
        MeshError: The callee rejected the call.
    """
    while not lease.lost.is_set():
        try:
            return call()
        except UNANSWERED as error:
            lease.update(message=f"waiting for the {callee}: {error.message}")
        if lease.stopping.wait(RETRY_INTERVAL_S) or (cancellable and lease.cancelled.is_set()):
            return None
    raise LeaseLost(f"{lease.job.name} is held by another worker")
