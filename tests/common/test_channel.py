"""What a caller sees; against servers of ours and against bare ones that know nothing of our errors."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from common.auth.certificates import make_authority
from common.auth.identity import on_behalf_of
from common.channel import open_channel
from common.errors import Cancelled, DeadlineExceeded, Internal, InvalidArgument, MeshError, NotFound, Unavailable
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.settings import CalledSettings, ExampleSettings, example_settings


def get(stub: job_pb2_grpc.JobServiceStub, name: str) -> str:
    return str(stub.GetJob(job_pb2.GetJobRequest(name=name)).job.name)


@contextmanager
def bare_server(kind: str, behaviour: Callable[..., Any]) -> Iterator[str]:
    """Serves `/example/Call`; `kind` is that of grpc's functions, e.g. `unary_unary`."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("example", {"Call": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_calls_are_tried_again_while_a_server_restarts(tmp_path: Path) -> None:
    first = example_server(example_settings(tmp_path), ExampleServicer())
    first.start()
    with open_channel(first.address) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        assert get(stub, "before") == "before"
        first.stop()
        answers: list[str] = []
        call = threading.Thread(target=lambda: answers.append(get(stub, "after")))
        call.start()
        with example_server(example_settings(tmp_path, "--port", str(first.port)), ExampleServicer()):
            call.join(30)
    assert answers == ["after"]


def test_nobody_there_is_an_error_that_says_what_to_do() -> None:
    with open_channel("127.0.0.1:1", retry=False) as channel, pytest.raises(Unavailable) as caught:
        get(job_pb2_grpc.JobServiceStub(channel), "x")
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert "deepseek up" in caught.value.message


def test_a_call_is_tried_again_until_the_service_is_back() -> None:
    calls = []

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        calls.append(request)
        if len(calls) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return b"done"

    with bare_server("unary_unary", behaviour) as address, open_channel(address) as channel:
        assert channel.unary_unary("/example/Call")(b"x") == b"done"
    assert calls == [b"x"] * 3


def test_a_patient_caller_goes_on_trying() -> None:
    num_calls = 0

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal num_calls
        num_calls += 1
        if num_calls < 8:  # more often than gRPC tries by itself
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return b"done"

    with bare_server("unary_unary", behaviour) as address, open_channel(address, patience_s=30) as channel:
        assert channel.unary_unary("/example/Call")(b"x") == b"done"


@pytest.mark.parametrize("kind", ["unary_stream", "stream_unary", "stream_stream"])
def test_a_stream_is_never_sent_again(kind: str) -> None:
    calls = []

    def refuse(sent: bytes | Iterator[bytes], context: grpc.ServicerContext) -> None:
        calls.append(sent if isinstance(sent, bytes) else next(sent))
        context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")

    def refuse_many(sent: bytes | Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        refuse(sent, context)
        yield b""

    with (
        bare_server(kind, refuse if kind == "stream_unary" else refuse_many) as address,
        open_channel(address) as channel,
        pytest.raises(Unavailable),
    ):
        list(getattr(channel, kind)("/example/Call")(b"1" if kind == "unary_stream" else iter([b"1", b"2"])))
    assert calls == [b"1"]


@pytest.mark.parametrize(
    ("code", "details", "cls", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, b"", NotFound, "NOT_FOUND"),
        (grpc.StatusCode.UNKNOWN, b"", Internal, "INTERNAL"),
        (grpc.StatusCode.NOT_FOUND, b"\xff\xff", NotFound, "NOT_FOUND"),
        (grpc.StatusCode.NOT_FOUND, b"\x08\x03", NotFound, "NOT_FOUND"),  # details of another code
    ],
)
def test_a_status_of_a_foreign_server_is_understood(
    code: grpc.StatusCode, details: bytes, cls: type[MeshError], reason: str
) -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        if details:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, "foreign words")
        return b""

    with (
        bare_server("unary_unary", behaviour) as address,
        open_channel(address) as channel,
        pytest.raises(cls) as caught,
    ):
        channel.unary_unary("/example/Call")(b"")
    assert (caught.value.reason, caught.value.message) == (reason, "foreign words")


def test_a_unary_call_gets_a_deadline_and_its_callers_own_wins() -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        return str(context.time_remaining()).encode()

    with bare_server("unary_unary", behaviour) as address, open_channel(address, deadline_s=7) as channel:
        call = channel.unary_unary("/example/Call")
        assert 5 < float(call(b"")) < 8
        assert 50 < float(call(b"", timeout=60)) < 70


def test_every_call_says_which_service_it_means_and_keeps_its_own_metadata() -> None:
    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        sent = dict(context.invocation_metadata())
        return f"{sent.get('deepseek-service')} {sent.get('own')}".encode()

    with bare_server("unary_unary", behaviour) as address:
        with open_channel(address, service="trainer") as channel:
            assert channel.unary_unary("/example/Call")(b"", metadata=(("own", "1"),)) == b"trainer 1"
        with open_channel(address) as channel:
            assert channel.unary_unary("/example/Call")(b"") == b"None None"


def test_a_stream_gets_no_deadline_unless_one_is_given() -> None:
    leave = threading.Event()

    def behaviour(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"1"
        leave.wait(0.5)
        yield b"2"

    with bare_server("unary_stream", behaviour) as address, open_channel(address, deadline_s=0.1) as channel:
        call = channel.unary_stream("/example/Call")
        assert list(call(b"")) == [b"1", b"2"]
        with pytest.raises(DeadlineExceeded):
            list(call(b"", timeout=0.1))


def test_a_future_does_not_block_and_raises_mesh_errors(tmp_path: Path) -> None:
    servicer = ExampleServicer()
    with example_server(example_settings(tmp_path), servicer) as server, open_channel(server.address) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        call = stub.GetJob.future(job_pb2.GetJobRequest(name="slow"))
        assert servicer.entered.wait(10)
        assert not call.done()
        call.cancel()
        servicer.leave.set()
        wrong = stub.GetJob.future(job_pb2.GetJobRequest(name="wrong"))
        with pytest.raises(InvalidArgument):
            wrong.result(10)
        assert isinstance(wrong.exception(), InvalidArgument)
        assert stub.GetJob.future(job_pb2.GetJobRequest(name="x")).exception() is None


def test_a_stream_that_its_caller_cancels_says_so(tmp_path: Path) -> None:
    servicer = ExampleServicer()
    with example_server(example_settings(tmp_path), servicer) as server, open_channel(server.address) as channel:
        responses = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x"))
        next(responses)
        responses.cancel()
        with pytest.raises(Cancelled):
            next(responses)
        servicer.leave.set()


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_an_error_of_the_callers_own_iterator_is_not_lost(kind: str) -> None:
    def count(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return str(sum(1 for _ in requests)).encode()

    def counts(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield count(requests, context)

    def requests(error: Exception | None) -> Iterator[bytes]:
        yield b"1"
        if error:
            raise error

    with (
        bare_server(kind, count if kind == "stream_unary" else counts) as address,
        open_channel(address) as channel,
    ):
        method = getattr(channel, kind)("/example/Call")
        answer = method(requests(None))
        assert (answer if kind == "stream_unary" else next(answer)) == b"1"
        with pytest.raises(InvalidArgument) as caught:
            list(method(requests(InvalidArgument("MINE", "my own"))))
    assert caught.value.reason == "MINE"


@pytest.mark.parametrize("start", ["stream", "future"])
def test_ctrl_c_while_a_call_starts_lets_its_channel_close(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spin_thread = cygrpc.ForkManagedThread

    def interrupted(**arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return spin_thread(**arguments)

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    monkeypatch.setattr(cygrpc, "ForkManagedThread", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with bare_server("unary_unary", answer) as address:
            channel = open_channel(address)
            calls = {
                "future": channel.unary_unary("/example/Call").future,
                "stream": channel.unary_stream("/example/Call"),
            }
            with pytest.raises(KeyboardInterrupt):
                calls[start](b"1")
            close = threading.Thread(target=channel.close, daemon=True)
            close.start()
            close.join(30)
            assert not close.is_alive()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_closed_channel_is_an_error_and_not_a_crash() -> None:
    # In a process of its own: what is tested for is a segmentation fault.
    program = """
from common.channel import open_channel
from protos.job.v1 import job_pb2, job_pb2_grpc
def attempt(act):
    try:
        act()
    except ValueError as error:
        print(error)
channel = open_channel("127.0.0.1:1")
stub = job_pb2_grpc.JobServiceStub(channel)
channel.close()
attempt(lambda: stub.GetJob(job_pb2.GetJobRequest()))
attempt(lambda: job_pb2_grpc.JobServiceStub(channel))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().count("closed") == 2


def test_renewed_certificates_are_shown_without_a_new_channel(tmp_path: Path) -> None:
    make_authority(tmp_path / "old", ["example", "trainer"])
    make_authority(tmp_path / "new", ["example", "trainer"])
    shutil.copytree(tmp_path / "old", tmp_path / "identity")
    server = example_server(secured(tmp_path, "example"), ExampleServicer())
    server.start()
    with open_channel(server.address, identity=tmp_path / "identity" / "trainer", patience_s=20) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        request = job_pb2.GetJobRequest(name="before")
        assert stub.GetJob(request, metadata=on_behalf_of("lab")).job.name == "before"
        server.stop()
        # Nothing of the old authority is worth anything now.
        shutil.copytree(tmp_path / "new", tmp_path / "identity", dirs_exist_ok=True)
        with example_server(secured(tmp_path, "example", "--port", str(server.port)), ExampleServicer()):
            request = job_pb2.GetJobRequest(name="after")
            assert stub.GetJob(request, metadata=on_behalf_of("lab")).job.name == "after"


@pytest.mark.parametrize("missing", ["ca.pem", "cert.pem", "key.pem"])
def test_certificates_that_are_half_renewed_are_not_taken(missing: str, tmp_path: Path) -> None:
    make_authority(tmp_path / "identity", ["example", "trainer"])
    own = tmp_path / "identity" / "trainer"
    with (
        example_server(secured(tmp_path, "example"), ExampleServicer()) as server,
        open_channel(server.address, identity=own) as channel,
    ):
        stub = job_pb2_grpc.JobServiceStub(channel)
        (own / missing).unlink()
        for _ in range(12):
            assert stub.GetJob(job_pb2.GetJobRequest(name="x"), metadata=on_behalf_of("lab")).job.name == "x"
            threading.Event().wait(0.25)


def secured(home: Path, name: str, *flags: str) -> ExampleSettings:
    return example_settings(home, "--identity", str(home / "identity" / name), *flags, cls=CalledSettings)
