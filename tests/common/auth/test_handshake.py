"""Connections that TLS prevents: the caller hears why, and what to do."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.auth.certificates import make_authority
from common.auth.identity import on_behalf_of
from common.channel import open_channel
from common.errors import Unavailable
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.auth.certificates import renew_as_of_tomorrow, renew_as_old
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.settings import CalledSettings, example_settings


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two authorities with certificates for `example`, which serves, and `trainer`, which calls."""
    for name in ("ours", "theirs"):
        make_authority(tmp_path / name, ["example", "trainer"])
    return tmp_path


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    flags = ("--identity", str(site / "ours" / "example"))
    with example_server(example_settings(site, *flags, cls=CalledSettings), ExampleServicer()) as server:
        yield server.address


def call(address: str, identity: Path | None, *, patience_s: float = 0, retry: bool = False) -> None:
    with open_channel(address, identity=identity, retry=retry, patience_s=patience_s) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        stub.GetJob(job_pb2.GetJobRequest(name="x"), metadata=on_behalf_of("lab"))


def refusal(address: str, identity: Path | None) -> str:
    with pytest.raises(Unavailable) as caught:
        call(address, identity)
    assert caught.value.reason == "TLS_FAILED"
    assert address in caught.value.message
    return caught.value.message


def test_a_server_of_another_authority(site: Path, address: str) -> None:
    message = refusal(address, site / "theirs" / "trainer")
    assert f"{site}/theirs/trainer/ca.pem did not sign" in message


def test_a_server_whose_certificate_has_expired(site: Path, address: str) -> None:
    renew_as_old(site / "ours", "example", days_left=-1)
    message = refusal(address, site / "ours" / "trainer")
    assert "the server's certificate has expired; renew it with `deepseek certs renew`" in message


@pytest.mark.parametrize("ahead", ["example", "trainer"])
def test_a_certificate_from_a_machine_whose_clock_is_ahead(site: Path, address: str, ahead: str) -> None:
    renew_as_of_tomorrow(site / "ours", ahead)
    message = refusal(address, site / "ours" / "trainer")
    assert "clock of this machine" in message
    assert f"{datetime.now(UTC):%Y-%m-%d}" in message
    assert "Synchronize the clock" in message


def test_a_server_that_speaks_no_tls(site: Path) -> None:
    with example_server(example_settings(site), ExampleServicer()) as server:
        assert "does not use TLS" in refusal(server.address, site / "ours" / "trainer")


def test_a_server_under_a_name_that_its_certificate_does_not_carry(site: Path) -> None:
    flags = ("--identity", str(site / "ours" / "example"), "--host", "127.0.0.2")
    with example_server(example_settings(site, *flags), ExampleServicer()) as server:
        assert "certs renew --host" in refusal(server.address, site / "ours" / "trainer")


def test_a_client_without_tls(address: str) -> None:
    assert "requires TLS; specify an identity" in refusal(address, None)


def test_a_client_without_a_certificate(site: Path, address: str) -> None:
    (site / "user").mkdir()
    shutil.copy(site / "ours" / "ca.pem", site / "user")
    assert f"{site}/user has none" in refusal(address, site / "user")


def test_a_client_whose_certificate_has_expired(site: Path, address: str) -> None:
    renew_as_old(site / "ours", "trainer", days_left=-1)
    assert "ours/trainer has expired; renew it with `deepseek certs renew`" in refusal(
        address, site / "ours" / "trainer"
    )


def test_a_client_with_a_certificate_of_another_authority(site: Path, address: str) -> None:
    shutil.copy(site / "ours" / "ca.pem", site / "theirs" / "trainer")
    assert "rejects the certificate" in refusal(address, site / "theirs" / "trainer")


def test_a_client_with_the_key_of_another_certificate(site: Path, address: str) -> None:
    shutil.copy(site / "ours" / "example" / "key.pem", site / "ours" / "trainer")
    assert "do not match" in refusal(address, site / "ours" / "trainer")


@pytest.mark.parametrize("secure", [False, True])
def test_a_server_that_hangs_up_at_once_is_not_blamed_on_tls(site: Path, secure: bool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unavailable) as caught:
            call(f"127.0.0.1:{listener.getsockname()[1]}", site / "ours" / "trainer" if secure else None)
        assert caught.value.reason == "SERVICE_UNREACHABLE"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_stream_says_it_too(address: str) -> None:
    with open_channel(address) as channel, pytest.raises(Unavailable) as caught:
        next(job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x")))
    assert caught.value.reason == "TLS_FAILED"


def test_patience_is_for_services_that_start_and_not_for_certificates(site: Path, address: str) -> None:
    begin_s = time.monotonic()
    with pytest.raises(Unavailable, match=r"TLS with .* failed"):
        call(address, site / "theirs" / "trainer", patience_s=60, retry=True)
    assert 5 <= time.monotonic() - begin_s < 15
