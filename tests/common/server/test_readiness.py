"""Checks that hang; those that answer are tested with whole servers in `test_health`."""

import threading
import time
from collections.abc import Iterator
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from common.server.readiness import STOP_S, Readiness
from tests.harness.processes import wait_until

OVERDUE_S = 0.2


class Dependency:
    """Answers that it is there, at once or only once it is let go."""

    def __init__(self) -> None:
        self.hangs = False
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def ready(self) -> bool:
        if self.hangs:
            self.asked.set()
            assert self.let_go.wait(30)
        return True


@pytest.fixture
def dependency() -> Iterator[Dependency]:
    dependency = Dependency()
    yield dependency
    dependency.let_go.set()


def is_serving(readiness: Readiness) -> bool:
    answer = readiness.Check(health_pb2.HealthCheckRequest(service="example"), cast(grpc.ServicerContext, None))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_check_that_hangs_counts_as_a_no_until_it_answers(dependency: Dependency) -> None:
    readiness = Readiness(["example"], dependency.ready, overdue_s=OVERDUE_S)
    readiness.start()
    try:
        wait_until(lambda: is_serving(readiness), "the first check")
        dependency.hangs = True
        assert dependency.asked.wait(10)
        wait_until(lambda: not is_serving(readiness), "the check to be overdue")
        dependency.let_go.set()
        wait_until(lambda: is_serving(readiness), "the late answer to count")
    finally:
        readiness.stop()


def test_a_check_that_hangs_holds_up_neither_start_nor_stop(dependency: Dependency) -> None:
    dependency.hangs = True
    readiness = Readiness(["example"], dependency.ready, overdue_s=OVERDUE_S)
    start_s = time.monotonic()
    readiness.start()
    assert not is_serving(readiness)
    readiness.stop()
    assert time.monotonic() - start_s < OVERDUE_S + STOP_S + 2


def test_an_answer_that_comes_after_the_stop_changes_nothing(dependency: Dependency) -> None:
    dependency.hangs = True
    before = set(threading.enumerate())
    readiness = Readiness(["example"], dependency.ready, overdue_s=OVERDUE_S)
    readiness.start()
    readiness.stop()
    dependency.let_go.set()
    wait_until(lambda: not any(one.name == "readiness" for one in {*threading.enumerate()} - before), "its end")
    assert not is_serving(readiness)
