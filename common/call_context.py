"""The context that servicers receive: gRPC's context, with the authenticated caller and the effective deadline.

The interceptor (`common.server.interceptor`) creates one context per call. This module is not part of `common.server`,
because the imports would be circular: `common.server` imports the servicers in `common.jobs`, `common.artifacts` and
`common.upkeep`, which need the caller.
"""

import time
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import grpc

from common.auth import Caller
from common.errors import Cancelled, DeadlineExceeded

Request = TypeVar("Request")

_FOREVER_S = 1e9
"""A call has no deadline if gRPC reports a remaining time, in seconds, above this limit."""


class CallContext:
    """The context of one call. It has all attributes of `grpc.ServicerContext`, and those below.

    Attributes:
        caller: The authenticated caller.
        has_own_deadline: Whether the client set a deadline. Valid only after `set_deadline` was called.
    """

    def __init__(self, context: grpc.ServicerContext, caller: Caller) -> None:
        self.caller = caller
        self.has_own_deadline = True
        self._context = context
        self._end_s: float | None = None

    def set_deadline(self, deadline_s: float) -> float:
        """Sets a deadline `deadline_s` seconds from now, unless the client set one; returns the effective deadline.

        Returns:
            The deadline, in seconds on the monotonic clock.

        Raises:
            DeadlineExceeded: The client's own deadline has passed.
        """
        remaining_s = self._context.time_remaining()
        self.has_own_deadline = remaining_s is not None and remaining_s < _FOREVER_S
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before the call began")
        self._end_s = time.monotonic() + (remaining_s if self.has_own_deadline and remaining_s else deadline_s)
        return self._end_s

    def time_remaining(self) -> float | None:
        """Returns the number of seconds until the effective deadline; None if there is no deadline."""
        return self._context.time_remaining() if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def caller(context: grpc.ServicerContext) -> Caller:
    """Returns the authenticated caller of a call."""
    return cast(CallContext, context).caller


def received(requests: Iterator[Request], *, field: str) -> Iterator[Request]:
    """Yields the requests of a client's stream.

    Args:
        requests: The stream, as gRPC passes it to a servicer.
        field: Field that the error names.

    Raises:
        Cancelled: STREAM_BROKEN if the stream ends early.
    """
    try:
        yield from requests
    except grpc.RpcError as error:
        raise Cancelled("STREAM_BROKEN", "the client disconnected or its deadline passed", field=field) from error
