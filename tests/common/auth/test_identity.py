"""Certificates that run out: whoever runs a mesh hears of it before its users do."""

import logging
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.auth import identity
from common.auth.certificates import make_authority, renew
from common.auth.identity import EXPIRY_WARNING_DAYS, Identity, read_token
from common.channel import open_channel
from common.database import Database
from common.errors import FailedPrecondition, MeshError, Unauthenticated
from common.server.telemetry import Telemetry
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.auth.certificates import renew_as_of_tomorrow, renew_as_old
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.settings import example_settings


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    make_authority(tmp_path / "identity", ["example"])
    return tmp_path / "identity"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def connect(address: str, folder: Path) -> None:
    with open_channel(address, identity=folder, retry=False) as channel, pytest.raises(MeshError):
        job_pb2_grpc.JobServiceStub(channel).GetJob(job_pb2.GetJobRequest())


def test_a_certificate_tells_when_it_expires(authority: Path) -> None:
    expires = Identity(authority / "example").expires()
    assert expires is not None
    assert abs(expires - datetime.now(UTC) - timedelta(days=365)) < timedelta(minutes=5)


def test_a_user_of_an_edge_has_none(authority: Path) -> None:
    assert Identity(authority).expires() is None


def test_certificates_are_read_as_editors_leave_them(authority: Path, tmp_path: Path) -> None:
    for name, end in (("ca.pem", b"\r\n"), ("cert.pem", b"\r"), ("key.pem", b"\n")):
        for folder in ("example", "cli"):
            path = authority / folder / name
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", end))
    settings = example_settings(tmp_path, "--identity", str(authority / "example"))
    with (
        example_server(settings, ExampleServicer()) as server,
        open_channel(server.address, identity=authority / "cli", retry=False) as channel,
        pytest.raises(Unauthenticated),  # so TLS was no hindrance
    ):
        job_pb2_grpc.JobServiceStub(channel).GetJob(job_pb2.GetJobRequest())


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfthe.token\r\n", b"the.token\r", b" the.token \n\n"])
def test_a_token_is_read_as_editors_leave_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    assert read_token(tmp_path / "token") == "the.token"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the.token".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"", "contains no token"),
        (b"the\ntoken", "contains no token"),
        ("tökén".encode(), "contains no token"),
    ],
)
def test_what_is_no_token_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(FailedPrecondition, match=message) as caught:
        read_token(tmp_path / "token")
    assert (caught.value.reason, caught.value.field) == ("BAD_TOKEN_FILE", "token_file")


def test_what_is_no_certificate_is_named(authority: Path) -> None:
    (authority / "example" / "cert.pem").write_text("nonsense")
    with pytest.raises(FailedPrecondition, match=r"cert\.pem contains no certificate") as caught:
        Identity(authority / "example").expires()
    assert caught.value.reason == "BAD_IDENTITY"


def test_a_server_does_not_start_with_one_that_has_expired(authority: Path, tmp_path: Path) -> None:
    renew_as_old(authority, "example", days_left=-1)
    with pytest.raises(FailedPrecondition, match="deepseek certs renew") as caught:
        example_server(example_settings(tmp_path, "--identity", str(authority / "example")), ExampleServicer())
    assert (caught.value.reason, caught.value.field) == ("CERTIFICATE_EXPIRED", "identity")
    assert f"the clock of this machine says {datetime.now(UTC):%Y-%m-%d}" in caught.value.message


def test_a_server_starts_before_its_certificate_is_valid_and_warns_of_the_clock(
    authority: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    renew_as_of_tomorrow(authority, "example")
    with example_server(example_settings(tmp_path, "--identity", str(authority / "example")), ExampleServicer()):
        [warning] = warnings(caplog)
        assert "is not valid before" in warning
        assert "Synchronize the clock" in warning


def test_a_server_warns_of_an_old_one_at_start_when_it_is_renewed_and_daily(
    authority: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = authority / "example"
    renew_as_old(authority, "example", days_left=EXPIRY_WARNING_DAYS - 1)
    with example_server(example_settings(tmp_path, "--identity", str(folder)), ExampleServicer()) as server:
        assert len(warnings(caplog)) == 1
        connect(server.address, folder)
        assert warnings(caplog) == []
        monkeypatch.setattr(identity, "_DAY_S", 0)
        renew_as_old(authority, "example", days_left=EXPIRY_WARNING_DAYS - 2)
        for _ in range(2):
            connect(server.address, folder)
            [warning] = warnings(caplog)
            assert (
                f"{datetime.now(UTC) + timedelta(days=EXPIRY_WARNING_DAYS - 2):%Y-%m-%d}; run `deepseek certs renew`"
                in warning
            )
        renew(authority, names=["example"])
        connect(server.address, folder)
        assert warnings(caplog) == []


def test_the_metrics_tell_when_it_expires(authority: Path, tmp_path: Path) -> None:
    folder = authority / "example"
    settings = example_settings(tmp_path, "--identity", str(folder), "--metrics-port", "0")
    with closing(Database(settings.state_url)) as database:
        database.migrate()
        with closing(Telemetry(settings, database)) as telemetry:

            def shown() -> list[float]:
                url = f"http://{telemetry.metrics_address}/metrics"
                with urllib.request.urlopen(url, timeout=30) as response:
                    lines = response.read().decode().splitlines()
                name = "deepseek_certificate_expiry_timestamp_seconds "
                return [float(line.removeprefix(name)) for line in lines if line.startswith(name)]

            expires = Identity(folder).expires()
            assert expires is not None
            assert shown() == [expires.timestamp()]
            (folder / "cert.pem").write_text("nonsense")
            assert shown() == []
