"""Health of servers over real sockets: liveness, readiness and watches."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.errors import ResourceExhausted, Unavailable
from common.server.readiness import MAX_WATCHES
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import SERVICE, ExampleServicer, example_server
from tests.harness.processes import wait_until
from tests.harness.settings import example_settings


def test_health_tells_alive_from_ready(servicer: ExampleServicer, tmp_path: Path) -> None:
    with (
        example_server(example_settings(tmp_path), servicer, ready=lambda: False) as server,
        open_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        named = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert named.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("failure", [False, Unavailable("STORE_UNREACHABLE", "away"), ValueError("a bug")])
def test_readiness_follows_what_the_service_depends_on(failure: bool | Exception, tmp_path: Path) -> None:
    state: list[bool | Exception] = [failure]

    def ready() -> bool:
        if isinstance(state[0], Exception):
            raise state[0]
        return state[0]

    def is_serving(name: str) -> bool:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    with (
        example_server(example_settings(tmp_path), ExampleServicer(), ready=ready) as server,
        open_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        assert (is_serving(""), is_serving(SERVICE)) == (True, False)
        state[0] = True
        wait_until(lambda: is_serving(SERVICE), "the service to be ready again")
        state[0] = failure
        wait_until(lambda: not is_serving(SERVICE), "the failure to show")
        assert is_serving("")


def test_watches_do_not_hold_up_a_drain(tmp_path: Path) -> None:
    servicer = ExampleServicer()
    server = example_server(example_settings(tmp_path), servicer, on_drain=[servicer.leave.set])
    server.start()
    with open_channel(server.address) as channel:
        health_watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        next(health_watch)
        job_watch = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x"))
        next(job_watch)
        start = time.monotonic()
        server.stop(20)
        assert time.monotonic() - start < 10
        assert list(job_watch) == []


def test_watches_of_names_that_are_not_known_are_answered_and_bounded(tmp_path: Path) -> None:
    server = example_server(example_settings(tmp_path), ExampleServicer())
    with server, open_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def watch(name: str) -> Any:
            return stub.Watch(health_pb2.HealthCheckRequest(service=name))

        watches = [watch(f"made-up-{number}") for number in range(MAX_WATCHES)]
        assert {next(one).status for one in watches} == {health_pb2.HealthCheckResponse.SERVICE_UNKNOWN}
        with pytest.raises(ResourceExhausted, match="call Check instead"):
            next(watch(SERVICE))
        for one in watches:
            one.cancel()

        def is_answered() -> bool:
            try:
                return bool(next(watch(SERVICE)).status == health_pb2.HealthCheckResponse.SERVING)
            except ResourceExhausted:
                return False

        wait_until(is_answered, "the places of watches that ended")


def test_watches_that_come_and_go_do_not_stop_the_server(tmp_path: Path) -> None:
    server = example_server(example_settings(tmp_path), ExampleServicer())

    def come_and_go(stub: Any) -> None:
        for _ in range(150):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()

    with server, open_channel(server.address) as channel, ThreadPoolExecutor(4) as pool:
        stub = health_pb2_grpc.HealthStub(channel)
        for done in [pool.submit(come_and_go, stub) for _ in range(4)]:
            done.result(120)
        assert stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10).status
