"""Servers as processes of their own: how they end, and what they log if they cannot start."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.channel import open_channel
from common.errors import MeshError
from common.server import MeshServer
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import get
from tests.harness.processes import wait_until


@contextmanager
def service(tmp_path: Path, *flags: str) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    file = tmp_path / "address.json"
    places = ["--home", str(tmp_path), "--port", "0", "--address-file", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.common.server.example", *places, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, file
    finally:
        process.kill()
        process.communicate()


def test_sigterm_lets_an_accepted_call_finish_and_ends_with_success(tmp_path: Path) -> None:
    with service(tmp_path) as (process, file):
        wait_until(file.exists, "the address file")
        address = json.loads(file.read_text())
        assert address["pid"] == process.pid
        with open_channel(address["address"]) as channel:
            responses = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="two"))
            next(responses)
            process.send_signal(signal.SIGTERM)
            assert [response.job.name for response in responses] == ["second"]
            output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "closed" in output
        assert not file.exists()


def test_a_call_that_outlives_its_grace_does_not_keep_the_process(tmp_path: Path) -> None:
    with service(tmp_path, "--drain-s", "0.2") as (process, file):
        wait_until(file.exists, "the address file")
        with open_channel(json.loads(file.read_text())["address"]) as channel:
            responses = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x"))
            next(responses)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
            with pytest.raises(MeshError):
                next(responses)
        assert process.returncode == 0, errors


def test_a_taken_port_is_told_in_the_last_log_line(server: MeshServer, tmp_path: Path) -> None:
    with service(tmp_path, "--port", str(server.port)) as (process, _):
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        entry = json.loads(errors.splitlines()[-1])
        assert (entry["reason"], entry["field"]) == ("PORT_TAKEN", "port")
        assert "Traceback" not in errors


def test_a_service_that_cannot_start_logs_why_and_fails(tmp_path: Path) -> None:
    with service(tmp_path, "--host", "0.0.0.0") as (process, _):
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        entry = json.loads(errors.splitlines()[-1])
        assert (entry["reason"], entry["field"]) == ("INSECURE_BIND", "host")


def test_sigterm_is_seen_even_if_another_thread_receives_it(tmp_path: Path) -> None:
    with service(tmp_path) as (process, file):
        wait_until(file.exists, "the address file")
        with open_channel(json.loads(file.read_text())["address"]) as channel:
            assert get(job_pb2_grpc.JobServiceStub(channel), "signal") == "signal"
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
