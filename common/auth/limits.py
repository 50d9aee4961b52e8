"""Rate and stream limits per caller, so that no caller starves the others.

A token bucket limits each caller's calls: `burst` at once, and `rate` per second in the long run. Open streams are
limited per caller and per tenant. Services of the mesh, which act for many callers, and the local caller are exempt.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.auth.caller import LOCAL, Caller
from common.errors import ResourceExhausted

_MAX_CALLERS = 10_000
"""Maximum number of buckets. Beyond it, the least recently used one is dropped; its caller starts with a full one."""


class CallerLimits:
    """Counts calls and streams per caller. Thread-safe.

    Args:
        rate: Maximum number of calls per second that each caller may make in the long run.
        burst: Maximum number of calls that a caller may make at once.
        max_streams: Maximum number of open streams per caller.
        max_streams_per_tenant: Maximum number of open streams of all callers of a tenant together.
    """

    def __init__(
        self,
        *,
        rate: float,
        burst: int,
        max_streams: int,
        max_streams_per_tenant: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._max_streams = max_streams
        self._max_streams_per_tenant = max_streams_per_tenant
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._streams: Counter[tuple[str, str]] = Counter()

    def count(self, caller: Caller) -> None:
        """Counts a call.

        Raises:
            ResourceExhausted: RATE_EXCEEDED, with the delay after which one more call is allowed.
        """
        if caller is LOCAL or caller.is_service:
            return
        key, now = (caller.tenant, caller.subject), self._clock()
        with self._lock:
            left, at = self._buckets.pop(key, (float(self._burst), now))
            left = min(self._burst, left + (now - at) * self._rate)
            allowed = left >= 1
            self._buckets[key] = (left - allowed, now)
            if len(self._buckets) > _MAX_CALLERS:
                self._buckets.popitem(last=False)
        if not allowed:
            delay_s = (1 - left) / self._rate
            message = f"{caller.subject} may make at most {self._rate:g} calls per second; try again in {delay_s:.3f} s"
            raise ResourceExhausted("RATE_EXCEEDED", message, retry_delay_s=delay_s)

    def pause(self, caller: Caller, seconds: float) -> None:
        """Rejects a caller's calls for the given time, as if the caller had exceeded its rate."""
        if caller is LOCAL or caller.is_service:
            return
        with self._lock:
            self._buckets[caller.tenant, caller.subject] = (0.0, self._clock() + seconds)

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """Counts a stream as open within the `with` block.

        Raises:
            ResourceExhausted: TOO_MANY_STREAMS.
        """
        if caller is LOCAL or caller.is_service:
            yield
            return
        # An empty subject stands for the whole tenant; no caller has an empty subject.
        bounds = {(caller.tenant, caller.subject): self._max_streams, (caller.tenant, ""): self._max_streams_per_tenant}
        with self._lock:
            full = next((key for key, most in bounds.items() if self._streams[key] >= most), None)
            if full is None:
                self._streams.update(bounds.keys())
        if full is not None:
            who, most = full[1] or f"tenant {caller.tenant}", bounds[full]
            message = f"{who} has {most} open streams, the maximum; close one"
            raise ResourceExhausted("TOO_MANY_STREAMS", message, retry_delay_s=1.0)
        try:
            yield
        finally:
            with self._lock:
                for key in bounds:
                    self._streams[key] -= 1
                    if not self._streams[key]:
                        del self._streams[key]
