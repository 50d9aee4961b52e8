"""A guard against slow requests, which occupy server threads while only the headers of their calls have arrived.

gRPC starts a handler as soon as the headers of a call arrive, and the handler's thread waits for the request. A slow
connection may need a while to deliver it, but an attacker could block a server with such calls alone. Therefore, a
thread polls the pending requests. Each tenant may have a few slow ones. Beyond that number, the thread cancels the
newest calls, and their callers' further calls are rejected for a while. Calls whose request has not arrived by the
server's deadline are cancelled too.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc

from common.auth.limits import CallerLimits
from common.call_context import CallContext
from common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

SLOW_S = 1.0
"""Age in seconds at which a pending request becomes slow. A request sent with its call arrives within milliseconds."""

MAX_SLOW_PER_TENANT = 4
MAX_SLOW = 16

PAUSE_S = 10.0
"""Seconds for which a caller's calls are rejected after one of them was cancelled as one slow request too many."""

_POLL_INTERVAL_S = 0.25


class _Pending:
    """A request that has not arrived yet."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.polls = 0  # used as a clock that stops while the process is paused, as nothing can arrive then
        self.cancelled = False

    @property
    def age_s(self) -> float:
        """Seconds for which the request has been pending."""
        return self.polls * _POLL_INTERVAL_S


class SlowRequestGuard:
    """Receives the single request of each unary call. Thread-safe.

    Args:
        limits: Rate limits, used to reject the calls of a slow caller for a while.
        deadline_s: Seconds after which a pending request is cancelled.
    """

    def __init__(self, limits: CallerLimits, *, deadline_s: float) -> None:
        self._limits = limits
        self._deadline_s = deadline_s
        self._pending: dict[_Pending, None] = {}  # oldest first; only changed by operations that are atomic in CPython
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._run, name="slow-requests", daemon=True)

    def start(self) -> None:
        """Starts polling."""
        self._poller.start()

    def stop(self) -> None:
        """Stops polling. Idempotent."""
        self._stopping.set()

    def first(self, requests: Iterator[Any], context: CallContext) -> Any:
        """Waits for the request of a call and returns it.

        Raises:
            InvalidArgument: BAD_MESSAGE; the call ended without a request.
            ResourceExhausted: REQUEST_TOO_SLOW; there were too many slow requests.
            DeadlineExceeded: The request did not arrive in time.
        """
        pending = _Pending(context)
        self._pending[pending] = None
        try:
            return next(requests)
        except (StopIteration, grpc.RpcError) as error:
            if pending.cancelled:
                raise self._late(pending) from None
            if isinstance(error, StopIteration):
                raise InvalidArgument("BAD_MESSAGE", "the call ended without a request; send one") from None
            raise
        finally:
            del self._pending[pending]

    def _late(self, pending: _Pending) -> DeadlineExceeded | ResourceExhausted:
        if self._is_overdue(pending):
            message = "the request did not arrive before the deadline; send it together with the call"
            return DeadlineExceeded("DEADLINE_EXCEEDED", message)
        message = (
            f"too many slow requests: a tenant may have {MAX_SLOW_PER_TENANT} at a time; "
            "send each request together with its call"
        )
        return ResourceExhausted("REQUEST_TOO_SLOW", message, retry_delay_s=PAUSE_S)

    def _is_overdue(self, pending: _Pending) -> bool:
        return pending.age_s > self._deadline_s

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_INTERVAL_S):
            self._poll()

    def _poll(self) -> None:
        num_tolerated: Counter[str] = Counter()
        for pending in list(self._pending):
            pending.polls += 1
            if pending.age_s <= SLOW_S:
                continue
            caller = pending.context.caller
            if not self._is_overdue(pending):
                if num_tolerated[caller.tenant] < MAX_SLOW_PER_TENANT and num_tolerated.total() < MAX_SLOW:
                    num_tolerated[caller.tenant] += 1
                    continue
                self._limits.pause(caller, PAUSE_S)
            pending.cancelled = True
            pending.context.cancel()
