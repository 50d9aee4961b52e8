"""Runs a SuperLink as a child process that ends with this one.

The SuperLink listens on loopback, because Flower serves its Control API on the port of the nodes and does not
authenticate its callers. Nodes on other machines connect through `node_proxy`, which forwards only the nodes' API.
Nodes and the SuperLink always use TLS and keys, also on loopback; Flower refuses keys without TLS.
"""

import datetime
import ipaddress
import os
import socket
import ssl
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509

from common.auth.certificates import make_authority, renew
from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from common.files import disk_error, replace_file
from common.ports import free_ports
from common.processes import bounding_log, spawn, terminate

START_TIMEOUT_S = 120.0
"""Longest time from the start of a SuperLink until it is ready, in seconds."""

_CERTIFICATE = "superlink"
_POLL_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 5.0
_TAIL_BYTES = 4096
_RENEW_BEFORE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class SuperLinkAddress:
    """An external SuperLink, which this package does not start.

    Attributes:
        address: `host:port`.
        root_certificates: File with the certificates of the authorities to trust, in PEM; None means plain HTTP, which
            is allowed only on loopback.
    """

    address: str
    root_certificates: Path | None = None

    def __post_init__(self) -> None:
        host = self.address.rpartition(":")[0]
        if not host or not self.address.rpartition(":")[2].isdigit():
            message = f"{self.address!r} is not an address of the form host:port"
            raise InvalidArgument("BAD_ADDRESS", message, field="superlink")
        if self.root_certificates is None and not is_loopback(host):
            message = (
                f"the SuperLink at {self.address} is not on this machine, so models would be sent unencrypted: "
                "give the file of its root certificate"
            )
            raise InvalidArgument("TLS_REQUIRED", message, field="root_certificates")


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of Flower's processes: no telemetry, no update checks, and state in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    settings = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(home)}
    # Flower starts its programs by name, so they must be those of this installation.
    path = os.pathsep.join([sysconfig.get_path("scripts"), kept.get("PATH", os.defpath)])
    return {**kept, **settings, "PATH": path}


class SuperLink:
    """A SuperLink on a free port of the loopback interface. Thread-safe.

    Args:
        home: Folder for its database, certificates, log and Flower's files; created if missing. A SuperLink that is
            started again in the same folder has the same nodes, and the same port if it is still free.
        hosts: Further host names and addresses by which nodes reach it, for its certificate.
        on_end: Called, from another thread, with the exit status when the process ends by itself.
    """

    def __init__(
        self, home: Path, *, hosts: Sequence[str] = (), on_end: Callable[[int], None] = lambda status: None
    ) -> None:
        self._home = home.absolute()
        self._on_end = on_end
        self._stopping = False
        self._ended = threading.Event()
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._home.chmod(0o700)  # Flower lets all users read its database, which contains models
            self._certificates = self._issue(hosts)
            self._port = self._choose_port()
        except OSError as error:
            raise disk_error(error, self._home) from error
        certificate = x509.load_pem_x509_certificate((self._certificates / "cert.pem").read_bytes())
        self._renew_at = certificate.not_valid_after_utc - _RENEW_BEFORE
        self._process = spawn(self._argv(), env=self._environment(), log=self.log_file)
        # Reaps the process. Otherwise, the programs that it started would find a zombie and regard it as running.
        self._waiter = threading.Thread(target=self._wait, name="superlink", daemon=True)
        self._waiter.start()

    @property
    def address(self) -> str:
        """`host:port` for the clients on this machine."""
        return f"127.0.0.1:{self._port}"

    @property
    def root_certificates(self) -> Path:
        """File with the certificate of the authority that signed the SuperLink's certificate."""
        return self._certificates / "ca.pem"

    @property
    def certificates(self) -> Path:
        """Folder with `ca.pem`, `cert.pem` and `key.pem`."""
        return self._certificates

    @property
    def log_file(self) -> Path:
        """File with the SuperLink's output."""
        return self._home / "superlink.log"

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return not self._ended.is_set()

    @property
    def certificate_expires_soon(self) -> bool:
        """Whether the certificate must be renewed, for which the SuperLink must be started again."""
        return datetime.datetime.now(datetime.UTC) > self._renew_at

    def wait_until_ready(self) -> None:
        """Waits until the SuperLink answers.

        Raises:
            FailedPrecondition: SUPERLINK_ENDED with the last line of its output.
            Unavailable: SUPERLINK_NOT_READY after `START_TIMEOUT_S`.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        with httpx.Client(verify=_trusting(self.root_certificates)) as client:
            while True:
                if not self.running:
                    message = f"the SuperLink ended with status {self._process.returncode}: {self._last_line()}"
                    raise FailedPrecondition("SUPERLINK_ENDED", message)
                try:
                    answer = client.get(f"https://{self.address}/health")
                    if answer.is_success:
                        return
                    found = f"it answers with the status {answer.status_code}"
                except httpx.TransportError as error:
                    found = str(error)
                if time.monotonic() > deadline:
                    message = f"the SuperLink is not ready after {START_TIMEOUT_S:g} s: {found}; see {self.log_file}"
                    raise Unavailable("SUPERLINK_NOT_READY", message)
                time.sleep(_POLL_INTERVAL_S)

    def stop(self) -> None:
        """Ends the process and those that it started. Idempotent."""
        self._stopping = True
        if self.running:
            terminate(self._process, grace_s=_STOP_TIMEOUT_S)
        self._waiter.join()

    def _wait(self) -> None:
        with bounding_log(self.log_file):
            status = self._process.wait()
        self._ended.set()
        if not self._stopping:
            self._on_end(status)

    def _issue(self, hosts: Sequence[str]) -> Path:
        authority = self._home / "certificates"
        if not (authority / "ca.pem").exists():
            make_authority(authority, [_CERTIFICATE], hosts=hosts)
        else:
            renew(authority, names=[_CERTIFICATE], hosts=hosts)
        return authority / _CERTIFICATE

    def _choose_port(self) -> int:
        """Returns the port of the previous start, so that nodes find the SuperLink again, or a free one."""
        file = self._home / "port"
        if file.exists():
            port = int(file.read_text(encoding="ascii"))
            deadline = time.monotonic() + _STOP_TIMEOUT_S  # the previous process may be about to end
            while time.monotonic() < deadline:
                if not _listens(port):
                    return port
                time.sleep(_POLL_INTERVAL_S)
        (port,) = free_ports(1)
        replace_file(file, str(port).encode())
        return port

    def _argv(self) -> list[str]:
        return [
            "flower-superlink",
            "--host=127.0.0.1",
            f"--port={self._port}",
            f"--database={self._home / 'superlink.db'}",
            f"--ssl-ca-certfile={self._certificates / 'ca.pem'}",
            f"--ssl-certfile={self._certificates / 'cert.pem'}",
            f"--ssl-keyfile={self._certificates / 'key.pem'}",
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]

    def _environment(self) -> dict[str, str]:
        return {**environment(self._home / "flwr"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}

    def _last_line(self) -> str:
        with self.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no output"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _trusting(root_certificates: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(root_certificates))
