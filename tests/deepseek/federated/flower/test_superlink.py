"""The SuperLink as a child process: it ends with its parent, keeps its port, and says why it cannot start."""

import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from common.auth import certificates
from common.errors import FailedPrecondition, Unavailable
from deepseek.federated.flower import superlink
from deepseek.federated.flower.flower_engine import FlowerEngine, FlowerSettings
from deepseek.federated.flower.superlink import SuperLink
from tests.deepseek.federated.flower.conftest import TIMEOUT_S
from tests.harness.processes import wait_until

pytestmark = pytest.mark.timeout(300)

PARENT = """
import pathlib, sys, time
from deepseek.federated.flower.superlink import SuperLink
print(SuperLink(pathlib.Path(sys.argv[1])).pid, flush=True)
time.sleep(120)
"""


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), "the end of the SuperLink", timeout_s=TIMEOUT_S)


def test_a_database_that_is_none_is_reported_with_the_last_line_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "superlink.db").write_bytes(b"not a database, " * 1000)
    broken = SuperLink(tmp_path)
    with pytest.raises(FailedPrecondition, match=r"the SuperLink ended with status 1: .") as caught:
        broken.wait_until_ready()
    assert caught.value.reason == "SUPERLINK_ENDED"
    broken.stop()


SERVER = """
import http.server, ssl, sys
class Refuses(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Refuses)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_a_superlink_that_answers_with_errors_is_not_awaited_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def argv(self: SuperLink) -> list[str]:
        folder, port = self.certificates, self.address.rpartition(":")[2]
        return [sys.executable, "-c", SERVER, port, str(folder / "cert.pem"), str(folder / "key.pem")]

    monkeypatch.setattr(SuperLink, "_argv", argv)
    refusing = SuperLink(tmp_path)
    with httpx.Client(verify=ssl.create_default_context(cafile=str(refusing.root_certificates))) as client:

        def listens() -> bool:
            try:
                return client.get(f"https://{refusing.address}/health").status_code == 500
            except httpx.TransportError:
                return False

        wait_until(listens, "the server", timeout_s=TIMEOUT_S)
    monkeypatch.setattr(superlink, "START_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="it answers with the status 500") as caught:
        refusing.wait_until_ready()
    assert caught.value.reason == "SUPERLINK_NOT_READY"
    refusing.stop()


def test_a_certificate_is_renewed_thirty_days_before_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LEAF_DAYS", 29)
    engine = FlowerEngine(FlowerSettings(tmp_path))
    try:
        old = engine.superlink
        assert old is not None
        assert old.certificate_expires_soon
        monkeypatch.undo()
        assert engine.nodes() == []
        new = engine.superlink
        assert new is not None
        assert new is not old
        assert not old.running
        assert new.address == old.address
        assert not new.certificate_expires_soon
        assert engine.nodes() == []
        assert engine.superlink is new
    finally:
        engine.close()


def test_the_port_and_the_authority_are_kept_and_the_certificate_names_the_hosts(tmp_path: Path) -> None:
    first = SuperLink(tmp_path)
    first.stop()
    authority = first.root_certificates.read_bytes()
    ended: list[int] = []
    second = SuperLink(tmp_path, hosts=["mesh.example", "10.1.2.3"], on_end=ended.append)
    second.stop()
    second.stop()
    assert second.address == first.address
    assert second.root_certificates.read_bytes() == authority
    certificate = x509.load_pem_x509_certificate((second.certificates / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "mesh.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "10.1.2.3"} <= {str(one) for one in names.get_values_for_type(x509.IPAddress)}
    assert ended == []  # it was stopped; it did not end by itself


def test_its_files_are_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = SuperLink(home)
    made.stop()
    assert home.stat().st_mode & 0o777 == 0o700
    assert made.log_file.stat().st_mode & 0o777 == 0o600
    assert (made.certificates / "key.pem").stat().st_mode & 0o777 == 0o600
