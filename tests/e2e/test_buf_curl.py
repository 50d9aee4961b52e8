"""A server tells its contract: buf, which knows nothing of ours, asks one by reflection, with and without TLS."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.auth import Role
from tests.harness.identity import new_authority
from tests.harness.subprocesses import ServiceSubprocess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BUF = Path(sys.executable).with_name("buf")
SERVICE = "deepseek.registry.v1.RegistryService"


def buf_curl(url: str, flags: Sequence[str | Path], body: str = "{}") -> "subprocess.CompletedProcess[str]":
    command = [BUF, "curl", "--protocol", "grpc", *flags, "--data", body, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def registry(home: Path, settings: dict[str, str]) -> Iterator[str]:
    """A registry; its address."""
    home.mkdir()
    process = ServiceSubprocess("registry", home, settings=settings)
    try:
        process.start()
        yield process.address
    finally:
        process.close()


def makes_and_lists_a_model(base: str, flags: Sequence[str | Path]) -> None:
    made = buf_curl(f"{base}/{SERVICE}/CreateModel", flags, '{"model_id": "colours", "request_id": "1"}')
    assert made.returncode == 0, made.stderr
    listed = buf_curl(f"{base}/{SERVICE}/ListModels", flags)
    assert listed.returncode == 0, listed.stderr
    assert [model["name"] for model in json.loads(listed.stdout)["models"]] == ["models/colours"]


def test_buf_asks_a_service_in_the_clear(tmp_path: Path) -> None:
    with registry(tmp_path / "home", {}) as address:
        makes_and_lists_a_model(f"http://{address}", ["--http2-prior-knowledge"])


def test_buf_asks_a_service_with_a_certificate_and_a_token(tmp_path: Path) -> None:
    authority = new_authority(tmp_path / "identity", ["registry"])
    user = authority.identity("cli")
    tls = ["--cacert", user / "ca.pem", "--cert", user / "cert.pem", "--key", user / "key.pem"]

    def bearer(role: Role) -> list[str]:
        headers = tmp_path / f"{role}.headers"
        headers.write_text(f"authorization: Bearer {authority.token(role)}\n", encoding="ascii")
        return ["-H", f"@{headers}", "--reflect-header", "*"]

    with registry(tmp_path / "home", {"identity": str(authority.identity("registry"))}) as address:
        makes_and_lists_a_model(f"https://{address}", [*tls, *bearer(Role.WRITER)])

        url = f"https://{address}/{SERVICE}/ListModels"
        assert buf_curl(url, [*tls, *bearer(Role.READER)]).returncode == 0
        # No reader, no token, no certificate; buf does not pass on what the server said.
        assert buf_curl(url, [*tls, *bearer(Role.PREDICTOR)]).returncode != 0
        assert buf_curl(url, [*tls, "--reflect"]).returncode != 0
        assert buf_curl(url, [*tls[:2], *bearer(Role.READER)]).returncode != 0
