"""Calls to a server over real sockets: errors, limits, deadlines and streams."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.channel import open_channel
from common.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Violation,
)
from common.server import GrpcService, MeshServer, make_server
from protos.ingest.v1 import ingest_pb2
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import SERVICE, ExampleServicer, example_server, get
from tests.harness.settings import example_settings

COUNTING = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
COUNT = f"/{COUNTING}/UploadSamples"
NO_PROXY = [("grpc.enable_http_proxy", 0)]


def test_an_error_arrives_as_the_class_that_was_raised(stub: job_pb2_grpc.JobServiceStub) -> None:
    with pytest.raises(InvalidArgument) as caught:
        get(stub, "wrong")
    error = caught.value
    assert (error.reason, error.message, error.field, error.retry_delay_s) == ("BAD_NAME", "no such name", "name", 1.5)
    assert error.violations[1] == Violation("other", "also")


def test_an_error_within_a_stream_arrives_after_the_messages_before_it(stub: job_pb2_grpc.JobServiceStub) -> None:
    responses = stub.WatchJob(job_pb2.WatchJobRequest(name="wrong"))
    assert next(responses).job.name == "wrong"
    with pytest.raises(NotFound) as caught:
        next(responses)
    assert caught.value.reason == "JOB_NOT_FOUND"


def test_a_bug_tells_the_caller_nothing(stub: job_pb2_grpc.JobServiceStub) -> None:
    with pytest.raises(Internal) as unary:
        get(stub, "bug")
    with pytest.raises(Internal) as stream:
        list(stub.WatchJob(job_pb2.WatchJobRequest(name="bug")))
    for caught in (unary, stream):
        assert "secret" not in str(caught.value)
        assert caught.value.reason == "INTERNAL"


def test_streams_beyond_the_cap_are_refused_while_unary_calls_work(stub: job_pb2_grpc.JobServiceStub) -> None:
    streams = [stub.WatchJob(job_pb2.WatchJobRequest(name="x")) for _ in range(2)]
    for stream in streams:
        next(stream)
    with pytest.raises(ResourceExhausted) as caught:
        next(stub.WatchJob(job_pb2.WatchJobRequest(name="x")))
    assert caught.value.reason == "TOO_MANY_STREAMS"
    assert caught.value.retry_delay_s == 1
    assert get(stub, "x") == "x"


def test_an_oversized_message_is_refused(stub: job_pb2_grpc.JobServiceStub) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        get(stub, "x" * 200_000)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert "send or request less in one message" in caught.value.message
    assert get(stub, "x") == "x"


def test_a_response_that_fits_no_message_is_an_error_that_says_what_to_do(
    stub: job_pb2_grpc.JobServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    name = "x" * 99_996  # the request has 100,000 bytes, the response a few more
    for call in (lambda: get(stub, name), lambda: next(stub.WatchJob(job_pb2.WatchJobRequest(name=name)))):
        with pytest.raises(ResourceExhausted, match=r"the limit is 100000\. Request less at a time") as caught:
            call()
        assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(("kind", "method"), [("unary_unary", "GetJob"), ("unary_stream", "WatchJob")])
def test_bytes_that_are_no_message_are_the_callers_mistake(
    kind: str, method: str, server: MeshServer, caplog: pytest.LogCaptureFixture
) -> None:
    with open_channel(server.address) as channel:
        call = getattr(channel, kind)(f"/{SERVICE}/{method}")
        with pytest.raises(InvalidArgument) as caught:
            list(call(b"\xff"))
    assert caught.value.reason == "BAD_MESSAGE"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_call_ends_at_its_deadline(server: MeshServer) -> None:
    with open_channel(server.address, deadline_s=0.2) as channel, pytest.raises(MeshError) as caught:
        get(job_pb2_grpc.JobServiceStub(channel), "slow")
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_a_taken_port_is_an_error_that_names_the_field(server: MeshServer, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        make_server(example_settings(tmp_path, "--port", str(server.port)), [], ready=lambda: True)
    assert (caught.value.reason, caught.value.field) == ("PORT_TAKEN", "port")


def test_reflection_lists_the_services(server: MeshServer) -> None:
    with grpc.insecure_channel(server.address, NO_PROXY) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (response,) = stub.ServerReflectionInfo(iter([request]))
    assert SERVICE in {service.name for service in response.list_services_response.service}


def test_an_error_too_large_to_travel_arrives_cut(stub: job_pb2_grpc.JobServiceStub) -> None:
    with pytest.raises(InvalidArgument) as caught:
        get(stub, "many words")
    assert caught.value.reason == "BAD_NAME"
    assert caught.value.message.startswith("üü")
    assert caught.value.message.endswith("…")
    assert 10 < len(caught.value.violations) < 5_000


def test_paths_of_the_server_are_in_its_log_and_in_no_answer(
    stub: job_pb2_grpc.JobServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), pytest.raises(NotFound) as caught:
        get(stub, "path")
    assert (caught.value.message, caught.value.field) == ("no file <path>", "file")
    assert [violation.description for violation in caught.value.violations] == ["no file <path>"]
    assert "/tests/common/server/servicer.py" in caplog.text


def test_an_error_that_is_not_unicode_arrives_all_the_same(stub: job_pb2_grpc.JobServiceStub) -> None:
    with pytest.raises(NotFound) as caught:
        get(stub, "not Unicode")
    assert (caught.value.reason, caught.value.message) == ("FILE_NOT_FOUND", "no ?")


def test_a_status_that_a_servicer_set_itself_is_kept(server: MeshServer) -> None:
    with grpc.insecure_channel(server.address, NO_PROXY) as channel, pytest.raises(grpc.RpcError) as caught:
        get(job_pb2_grpc.JobServiceStub(channel), "abort")
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


def test_a_call_without_a_deadline_gets_the_servers(servicer: ExampleServicer, tmp_path: Path) -> None:
    with (
        example_server(example_settings(tmp_path, "--deadline-s", "0.3"), servicer) as server,
        grpc.insecure_channel(server.address, NO_PROXY) as channel,
    ):
        stub = job_pb2_grpc.JobServiceStub(channel)
        request = job_pb2.GetJobRequest(name="remaining")
        assert 0 < stub.GetJob(request).job.progress <= 0.3
        assert 1 < stub.GetJob(request, timeout=60).job.progress < 70
        slow = stub.GetJob.future(job_pb2.GetJobRequest(name="slow"))
        assert servicer.entered.wait(10)
        servicer.leave.wait(0.4)
        servicer.leave.set()
        with pytest.raises(grpc.RpcError) as caught:
            slow.result()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "set a longer one" in caught.value.details()


def test_a_caller_that_leaves_is_not_a_bug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, ended = threading.Event(), threading.Event()

    def count(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            for _ in requests:
                first.set()
        finally:
            ended.set()
        return b""

    def requests() -> Iterator[bytes]:
        yield b"1"
        ended.wait(30)

    with serve_count(tmp_path, count) as server, open_channel(server.address) as channel:
        call = channel.stream_unary(COUNT).future(requests())
        assert first.wait(10)
        call.cancel()
        assert ended.wait(10)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_streams_of_requests_count_as_streams(tmp_path: Path) -> None:
    leave = threading.Event()

    def count(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return str(sum(1 for _ in requests)).encode()

    def endless(entered: threading.Event) -> Iterator[bytes]:
        yield b""
        entered.set()
        leave.wait(30)

    with serve_count(tmp_path, count, "--max-streams", "1") as server, open_channel(server.address) as channel:
        method = channel.stream_unary(COUNT)
        entered = threading.Event()
        call = method.future(endless(entered))
        assert entered.wait(10)
        with pytest.raises(ResourceExhausted) as caught:
            method(iter([b""]))
        assert caught.value.reason == "TOO_MANY_STREAMS"
        leave.set()
        assert call.result() == b"1"
        assert method(iter([b"", b""])) == b"2"


def serve_count(tmp_path: Path, count: Callable[..., bytes], *flags: str) -> MeshServer:
    def add(servicer: object, server: grpc.Server) -> None:
        handlers = {"UploadSamples": grpc.stream_unary_rpc_method_handler(count)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(COUNTING, handlers)])

    return make_server(example_settings(tmp_path, *flags), [GrpcService(COUNTING, add, None)], ready=lambda: True)


@pytest.mark.parametrize(("num_arriving", "num_polls"), [(0, 3), (10, 12), (1000, 30)])
def test_a_stopping_server_rejects_calls_until_none_arrives(
    num_arriving: int, num_polls: int, server: MeshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = SimpleNamespace(num_rejected=0, drain=lambda: None)
    polls = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        arrivals.num_rejected = min(len(polls), num_arriving)

    monkeypatch.setattr(server, "_interceptor", arrivals)
    monkeypatch.setattr("common.server.server.time", SimpleNamespace(sleep=sleep))
    server.stop(0)
    assert polls == [0, *[pytest.approx(0.1)] * num_polls]
