"""Short-lived callers and the worker they share: real processes on real sockets."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from common import unix_sockets
from common.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    ResourceExhausted,
    Unavailable,
)
from deepseek.federated import worker_link
from deepseek.federated.worker_link import LOG_FILE, call, raise_if_error
from tests.deepseek.federated.started import Started
from tests.harness.processes import wait_until

PROGRAM = Path(__file__).with_name("adding_worker.py")
ARRAYS = safetensors.numpy.save({"w": np.arange(3, dtype=np.float32)})


# Runs a program with a short limit of the log.
SHORT_LOG = """
import runpy, sys
from common import processes
processes.MAX_LOG_BYTES, processes._LOG_INTERVAL_S = 100, 0.01
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Workers(Started):
    """Starts workers of a folder and calls them."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__([sys.executable, str(PROGRAM), str(folder), *arguments])
        self.folder = folder

    def call(self, arrays: bytes = ARRAYS, **header: Any) -> tuple[dict[str, Any], bytes]:
        limits = {"max_reply_bytes": 1 << 20}
        return call(self.folder, header, arrays, start=self, **limits)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with Workers(tmp_path / "node") as workers:
        yield workers


def test_the_first_call_starts_the_worker_and_later_calls_share_it(workers: Workers) -> None:
    header, arrays = workers.call(run="r", loss=float("nan"))
    assert header["request"]["run"] == "r"
    assert np.isnan(header["metrics"]["loss"])
    np.testing.assert_array_equal(safetensors.numpy.load(arrays)["w"], np.arange(3, dtype=np.float32) + 1)
    assert workers.call()[0]["metrics"]["requests"] == 2
    assert len(workers.processes) == 1


def test_concurrent_callers_start_one_worker(workers: Workers) -> None:
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda _: workers.call(), range(6)))
    assert sorted(header["metrics"]["requests"] for header, _ in replies) == [1, 2, 3, 4, 5, 6]
    assert len(workers.processes) == 1


def test_a_killed_worker_is_replaced(workers: Workers) -> None:
    workers.call()
    workers.kill()
    assert workers.call()[0]["metrics"]["requests"] == 1
    assert len(workers.processes) == 2


def test_a_worker_without_requests_ends_and_the_next_call_starts_another(tmp_path: Path) -> None:
    with Workers(tmp_path / "node", "0.2") as workers:
        workers.call()
        assert workers.processes[0].wait(20) == 0
        assert not (workers.folder / "worker.sock").exists()
        workers.call()


def test_an_error_of_the_mesh_reaches_caller_and_log_and_the_worker_keeps_running(workers: Workers) -> None:
    header, arrays = workers.call(fail=True)
    assert arrays == b""
    with pytest.raises(FailedPrecondition, match="no examples") as caught:
        raise_if_error(header)
    assert (caught.value.reason, caught.value.field) == ("NO_EXAMPLES", "data")
    assert workers.call()[0]["metrics"]["requests"] == 2
    assert "NO_EXAMPLES: the node has no examples" in (workers.folder / LOG_FILE).read_text(encoding="utf-8")


def test_a_worker_that_ends_during_a_request_says_why(workers: Workers) -> None:
    with pytest.raises(Unavailable, match="crashed on request") as caught:
        workers.call(crash=True)
    assert caught.value.reason == "WORKER_DIED"
    assert workers.call()[0]["metrics"]["requests"] == 1


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        Started([sys.executable, "-c", "raise SystemExit('no torch here')"]) as broken,
        pytest.raises(Unavailable, match="status 1: no torch here") as caught,
    ):
        call(tmp_path, {}, b"", start=broken)
    assert caught.value.reason == "WORKER_NOT_STARTED"


def test_a_reply_over_the_limit_is_refused_unread(workers: Workers) -> None:
    with pytest.raises(ResourceExhausted, match="would have 1048577 bytes; the limit is 1048576"):
        workers.call(reply_bytes=(1 << 20) + 1)
    assert len(workers.call(reply_bytes=1 << 20)[1]) == 1 << 20


def test_a_header_over_the_limit_is_refused(workers: Workers) -> None:
    with pytest.raises(ResourceExhausted, match="the limit is 1048576"):
        workers.call(recipe="x" * (1 << 20))
    workers.call()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack(">Q", 1 << 40), "OVERSIZED"),
        (struct.pack(">Q", 2) + b"[]", "BAD_HEADER"),
        (struct.pack(">Q", 2) + b"\xff{", "BAD_HEADER"),
        (struct.pack(">Q", 2) + b"{}" + struct.pack(">Q", 1 << 60), "OVERSIZED"),
    ],
    ids=["long header", "not an object", "not JSON", "long arrays"],
)
def test_a_malformed_request_is_refused_and_the_worker_keeps_running(
    workers: Workers, content: bytes, reason: str
) -> None:
    workers.call()
    with socket.socket(socket.AF_UNIX) as connection:
        unix_sockets.connect(connection, workers.folder / "worker.sock")
        assert connection.recv(8) == b"DSWORK1\n"
        connection.sendall(content)
        assert f'"reason": "{reason}"'.encode() in connection.makefile("rb").read()
    assert workers.call()[0]["metrics"]["requests"] == 2


def test_the_worker_ends_with_the_process_of_the_node(workers: Workers) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as node:
        workers.call(supernode_pid=node.pid)
        assert workers.processes[0].poll() is None
        node.kill()
    assert workers.processes[0].wait(20) == -9


def test_a_worker_that_is_killed_leaves_nothing_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Workers(tmp_path / ("deep" * 30) / "node") as workers:
        for _ in range(2):
            assert workers.call()[0]["metrics"]["requests"] == 1
            workers.kill()
        assert (workers.folder / "worker.sock").is_socket()
    assert not list(temporary.iterdir())


def test_the_folder_is_private(workers: Workers) -> None:
    workers.folder.mkdir(mode=0o755)
    workers.call()
    assert workers.folder.stat().st_mode & 0o777 == 0o700
    assert (workers.folder / LOG_FILE).stat().st_mode & 0o777 == 0o600


def test_the_log_of_a_running_worker_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with Started([sys.executable, "-c", SHORT_LOG, str(PROGRAM), str(folder)]) as start:
        wait_until(
            lambda: call(folder, {"fail": True}, b"", start=start) and (folder / "worker.log.1").exists(), "a move"
        )
        assert len(start.processes) == 1
    assert "NO_EXAMPLES" in (folder / "worker.log.1").read_text(encoding="utf-8")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(FailedPrecondition, match="belongs to another user") as caught:
        call(tmp_path, {}, b"", start=Workers(tmp_path))
    assert caught.value.reason == "WORK_FOLDER_NOT_PRIVATE"


def test_a_second_worker_of_a_folder_is_refused(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.call()
    monkeypatch.setattr(worker_link, "_TAKEOVER_S", 0.1)
    with pytest.raises(FailedPrecondition, match="another worker serves") as caught:
        worker_link.serve(workers.folder, lambda header, arrays: ({}, b""))
    assert caught.value.reason == "WORKER_RUNNING"


def test_a_worker_of_another_version_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as threads:
        unix_sockets.bind(listener, tmp_path / "worker.sock")
        listener.settimeout(20)
        listener.listen()

        def greet() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"DSWORK2\n")

        greeted = threads.submit(greet)
        with pytest.raises(MeshError, match="another version"):
            call(tmp_path, {}, b"", start=Workers(tmp_path))
        greeted.result()


def test_the_module_imports_no_large_package() -> None:
    heavy = {"torch", "pandas", "scipy", "flwr", "grpc", "numpy", "pydantic", "sqlalchemy"}
    program = "import sys, deepseek.federated.worker_link; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(loaded)


def test_the_wait_for_a_worker_does_not_hide_a_stale_socket(workers: Workers) -> None:
    workers.folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        unix_sockets.bind(listener, workers.folder / "worker.sock")  # of a process that was killed
    wait_until(lambda: workers.call()[0]["metrics"]["requests"] == 1, "the new worker")


def test_a_worker_that_does_not_reply_in_time_is_given_up(workers: Workers, tmp_path: Path) -> None:
    workers.call()
    header = {"until": str(tmp_path / "never")}
    with pytest.raises(DeadlineExceeded) as caught:
        call(workers.folder, header, ARRAYS, start=workers, timeout_s=0.5)
    assert caught.value.reason == "WORKER_STUCK"
    with pytest.raises(DeadlineExceeded):  # it is still busy, so it does not even accept the next call
        call(workers.folder, {}, ARRAYS, start=workers, timeout_s=0.5)
    workers.kill()
    assert workers.call()[0]["metrics"]["requests"] == 1


def test_a_caller_can_end_the_wait_for_a_reply(workers: Workers, tmp_path: Path) -> None:
    started = tmp_path / "started"

    def check() -> None:
        if started.exists():
            raise Cancelled("STOPPED", "the run was stopped")

    header = {"started": str(started), "until": str(tmp_path / "never")}
    with pytest.raises(Cancelled):
        call(workers.folder, header, ARRAYS, start=workers, check=check)
