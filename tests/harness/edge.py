"""The edge of the stack without containers: Envoy with deploy/envoy on free ports, in front of a test's services."""

import contextlib
import re
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.ports import free_ports
from common.processes import spawn, terminate
from tests.harness.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
ENVOY = Path(sys.executable).with_name("envoy")
_USERS, _ADMIN, _METRICS, _KEYS = _PORTS = (8443, 9901, 9902, 9903)


@dataclass(frozen=True)
class Edge:
    """A running Envoy.

    Attributes:
        address: `host:port` for users.
        admin: `host:port` of its administration interface.
        log: Its log file.
    """

    address: str
    admin: str
    log: Path

    def read_admin(self, path: str) -> str:
        """Returns the response of its administration interface, e.g. to `/clusters`."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=10) as response:
            return str(response.read().decode())


def configure(folder: Path, identity: Path, changes: Mapping[str, str]) -> Path:
    """Writes the edge's configuration for use outside its container; returns the main file.

    Args:
        folder: Folder that it is written to.
        identity: Folder that replaces /identity.
        changes: Other replacements, by the text that they replace.
    """
    for file in (ROOT / "deploy/envoy").iterdir():
        text = file.read_text(encoding="utf-8")
        for before, after in {"/identity": str(identity), "/etc/envoy": str(folder), **changes}.items():
            text = text.replace(before, after)
        (folder / file.name).write_text(text, encoding="utf-8")
    return folder / "envoy.yaml"


@contextlib.contextmanager
def running_edge(
    folder: Path, identity: Path, services: Mapping[str, Sequence[str]], changes: Mapping[str, str] | None = None
) -> Iterator[Edge]:
    """Runs the edge until the block ends.

    Args:
        folder: New folder for its configuration and log.
        identity: As in `configure`.
        services: `host:port` of every instance, by service.
        changes: As in `configure`.
    """
    folder.mkdir()
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    moved = {f"port_value: {old}}}": f"port_value: {new}}}" for old, new in ports.items()}
    config = configure(folder, identity, {**moved, **(changes or {})})
    text = config.read_text(encoding="utf-8")
    for name, addresses in services.items():
        text = re.sub(rf"\[\{{endpoint: .*address: {name}, .*\]", f"[{', '.join(map(_endpoint, addresses))}]", text)
    config.write_text(text, encoding="utf-8")
    command = [str(ENVOY), "--config-path", str(config), "--log-level", "warn", "--concurrency", "2"]
    process = spawn([*command, "--use-dynamic-base-id"], env=None, log=folder / "log")
    edge = Edge(f"localhost:{ports[_USERS]}", f"127.0.0.1:{ports[_ADMIN]}", folder / "log")
    try:
        wait_until(lambda: _is_live(edge) or process.poll() is not None, "the edge")
        assert process.poll() is None, edge.log.read_text()[-4000:]
        yield edge
    finally:
        terminate(process, grace_s=5)


def _endpoint(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}"


def _is_live(edge: Edge) -> bool:
    try:
        return "LIVE" in edge.read_admin("/ready")
    except OSError:
        return False
