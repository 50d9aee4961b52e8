"""Statistics of a loaded version: how many requests it has processed, and how long the parts of a request took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Total:
    """Number of events, and their total duration in nanoseconds."""

    count: int = 0
    ns: int = 0

    def plus(self, ns: int) -> "Total":
        """Returns the total with one more event."""
        return Total(self.count + 1, self.ns + ns)


@dataclass(frozen=True)
class Figures:
    """The statistics at one point in time.

    Attributes:
        success: Requests that succeeded.
        fail: Requests that failed.
        parts: Parts of the requests that succeeded: decoding, execution and encoding.
        inference_count: Sum of the batch sizes of the requests that succeeded.
        last_ms: When the last of these requests arrived, in milliseconds since 1970-01-01 UTC; 0 if there was none.
    """

    success: Total = Total()
    fail: Total = Total()
    parts: tuple[Total, Total, Total] = (Total(), Total(), Total())
    inference_count: int = 0
    last_ms: int = 0


@dataclass
class Request:
    """A request in progress.

    Attributes:
        batch_size: Number of inferences in the request.
        times: When the request and each of its parts began, in nanoseconds.
    """

    batch_size: int = 1
    times: list[int] = field(default_factory=lambda: [time.perf_counter_ns()])

    def end_part(self) -> None:
        """Marks the end of a part, and the beginning of the next one."""
        self.times.append(time.perf_counter_ns())


class Statistics:
    """Collects statistics of requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures = Figures()

    @property
    def figures(self) -> Figures:
        """The statistics so far."""
        return self._figures

    @contextmanager
    def measuring(self) -> Iterator[Request]:
        """Measures a request, which has failed if the `with` block raises.

        Otherwise, the block must call `end_part` at the end of each of the three parts.
        """
        arrived_ms, request = time.time_ns() // 1_000_000, Request()
        try:
            yield request
        except BaseException:
            ns = time.perf_counter_ns() - request.times[0]
            with self._lock:
                self._figures = replace(self._figures, fail=self._figures.fail.plus(ns))
            raise
        start, decoded, executed, encoded = request.times
        with self._lock:
            old = self._figures
            decoding, execution, encoding = old.parts
            self._figures = replace(
                old,
                success=old.success.plus(encoded - start),
                parts=(
                    decoding.plus(decoded - start),
                    execution.plus(executed - decoded),
                    encoding.plus(encoded - executed),
                ),
                inference_count=old.inference_count + request.batch_size,
                last_ms=max(old.last_ms, arrived_ms),
            )
