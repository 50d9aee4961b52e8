"""Requests that do not come: a call that was begun and never sent holds one of the server's threads.

gRPC hands a call over as soon as its headers are there, and whoever takes its request waits for it in a thread of the
pool. A slow line may need that; an attacker needs nothing else to stop a server. So one thread looks at who is waited
for: beyond a few slow requests a tenant calls are cut, the newest first, and whoever sent them is not answered for a
while. A request that is not there at the server's deadline is waited for no longer.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from common.auth.limits import CallerLimits
from common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

if TYPE_CHECKING:
    from common.server.interceptor import CallContext

SLOW_S = 1.0
"""A request that takes longer to come is slow; what was sent at once is there in milliseconds, however large."""

MAX_SLOW_PER_TENANT = 4
MAX_SLOW = 16

PAUSE_S = 10.0
"""How long a caller is refused whose calls were cut."""

_LOOK_S = 0.25


class _Wait:
    def __init__(self, context: "CallContext") -> None:
        self.context = context
        self.looks = 0  # and no clock: a process that was paused has not waited meanwhile
        self.cut = False

    @property
    def seconds(self) -> float:
        """How long it has been waited for."""
        return self.looks * _LOOK_S


class Arrivals:
    """Waits for the one request of each call. Thread-safe.

    Args:
        limits: Is told who has to pause.
        deadline_s: Seconds after which a request is waited for no longer.
    """

    def __init__(self, limits: CallerLimits, *, deadline_s: float) -> None:
        self._limits = limits
        self._deadline_s = deadline_s
        self._waits: dict[_Wait, None] = {}  # in the order in which they began; changed by single steps of CPython only
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="arrivals", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._watcher.start()

    def stop(self) -> None:
        """Looks no longer. Idempotent."""
        self._stopping.set()

    def first(self, requests: Iterator[Any], context: "CallContext") -> Any:
        """Returns the request of a call.

        Raises:
            InvalidArgument: BAD_MESSAGE; the call ended without one.
            ResourceExhausted: REQUEST_TOO_SLOW; the caller had too many on the way.
            DeadlineExceeded: It did not come in time.
        """
        wait = _Wait(context)
        self._waits[wait] = None
        try:
            return next(requests)
        except (StopIteration, grpc.RpcError) as error:
            if wait.cut:
                raise self._late(wait) from None
            if isinstance(error, StopIteration):
                raise InvalidArgument("BAD_MESSAGE", "the call ended without a request; send one") from None
            raise
        finally:
            del self._waits[wait]

    def _late(self, wait: _Wait) -> DeadlineExceeded | ResourceExhausted:
        if self._is_over(wait):
            return DeadlineExceeded("DEADLINE_EXCEEDED", "the request did not come in time; send it with the call")
        message = f"{MAX_SLOW_PER_TENANT} slow requests of a tenant are waited for at most; send them with their calls"
        return ResourceExhausted("REQUEST_TOO_SLOW", message, retry_delay_s=PAUSE_S)

    def _is_over(self, wait: _Wait) -> bool:
        return wait.seconds > self._deadline_s

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        kept: Counter[str] = Counter()
        for wait in list(self._waits):
            wait.looks += 1
            if wait.seconds <= SLOW_S:
                continue
            caller = wait.context.caller
            if not self._is_over(wait):
                if kept[caller.tenant] < MAX_SLOW_PER_TENANT and kept.total() < MAX_SLOW:
                    kept[caller.tenant] += 1
                    continue
                self._limits.pause(caller, PAUSE_S)
            wait.cut = True
            wait.context.cancel()
