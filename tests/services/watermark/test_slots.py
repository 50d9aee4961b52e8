"""WorkSlots."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from common import deadline
from common.errors import DeadlineExceeded, ResourceExhausted
from services.watermark.slots import WorkSlots
from tests.harness.processes import wait_until


def test_calls_wait_for_their_turn_and_too_many_are_refused() -> None:
    slots, go_on, inside = WorkSlots(1, 1), threading.Event(), []

    def work(may_queue_freely: bool) -> None:
        with slots.acquire(may_queue_freely=may_queue_freely):
            inside.append(may_queue_freely)
            go_on.wait(30)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(work, False)
        wait_until(lambda: len(inside) == 1, "the first call to have its turn")
        others: list[Future[None]] = [pool.submit(work, False)]
        wait_until(lambda: len(slots._waiters) == 1, "the second call to wait")
        with pytest.raises(ResourceExhausted) as caught:
            work(False)
        assert (caught.value.reason, caught.value.retry_delay_s) == ("TOO_MANY_CALLS", 1.0)
        # A stream waits all the same.
        others.append(pool.submit(work, True))
        go_on.set()
        for one in (first, *others):
            one.result(30)
    assert sorted(inside) == [False, False, True]
    with slots.acquire(may_queue_freely=False):
        pass


def test_a_call_waits_no_longer_than_its_deadline() -> None:
    slots = WorkSlots(1, 1)
    in_time = deadline.until(time.monotonic() + 0.05)
    with (
        slots.acquire(may_queue_freely=True),
        in_time,
        pytest.raises(DeadlineExceeded),
        slots.acquire(may_queue_freely=False),
    ):
        pass
    with slots.acquire(may_queue_freely=False):
        pass


def test_who_waits_comes_before_who_comes_later() -> None:
    """Or a stream that works without a pause would leave no turn for others."""
    slots, order, is_over = WorkSlots(1, 4), list[str](), threading.Event()

    def stream() -> None:
        while not is_over.is_set():
            with slots.acquire(may_queue_freely=True):
                order.append("stream")
                time.sleep(0.1)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(stream)
        try:
            for _ in range(5):
                wait_until(lambda: slots._num_free == 0, "the stream to work")
                before = len(order)
                with slots.acquire(may_queue_freely=False):
                    assert len(order) <= before + 1
        finally:
            is_over.set()
