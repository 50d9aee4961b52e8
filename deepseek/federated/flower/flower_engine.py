"""The engine that uses Flower: a SuperLink, its Control API, and the relays of the open runs.

The SuperLink is a child process, or an external one. If the child ends, all links break, and the next call starts
another one with the same database, which contains the same nodes. Flower is imported when it is first needed.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, Unavailable
from deepseek.federated.flower.engine import Engine, Link, LinkBroken, NodeStatus
from deepseek.federated.flower.fab import ELSEWHERE, FAB_ID, POLL_KEY, RUN_KEY, SOCKET_KEY, app_files
from deepseek.federated.flower.node_keys import fingerprint_of_pem, read_public_key
from deepseek.federated.flower.relay import RelayLink, RelayServer
from deepseek.federated.flower.superlink import SuperLink, SuperLinkAddress

if TYPE_CHECKING:
    from deepseek.federated.flower.control import Control
    from deepseek.federated.flower.node_proxy import NodeProxy

RELAY_TIMEOUT_S = 90.0
"""Longest time from the start of a Flower run until its ServerApp connects, in seconds."""

_POLL_INTERVAL_S = 0.5
_MAX_RUN_KEY = 63


@dataclass(frozen=True)
class FlowerSettings:
    """How to reach the nodes.

    Attributes:
        home: Folder for the socket of the relays, and for the state of the embedded SuperLink.
        external: An external SuperLink, which runs on this machine or with ServerApps that run on this machine
            (`flower-superexec`); None means an embedded one.
        hosts: Host names and addresses by which nodes reach the embedded SuperLink, for its certificate.
        listen: `host:port` on which nodes of other machines reach the embedded SuperLink (`node_proxy`). If empty, only
            nodes on this machine can connect.
        poll_s: How often a relay asks for replies, in seconds.
    """

    home: Path
    external: SuperLinkAddress | None = None
    hosts: Sequence[str] = field(default=())
    listen: str = ""
    poll_s: float = 0.2


class FlowerEngine(Engine):
    """Implements `Engine` with Flower.

    Args:
        settings: How to reach the nodes.

    Raises:
        FailedPrecondition: SUPERLINK_ENDED or FLOWER_VERSION.
        Unavailable: SUPERLINK_NOT_READY.
    """

    def __init__(self, settings: FlowerSettings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._superlink: SuperLink | None = None
        self._control: Control | None = None
        self._node_proxy: NodeProxy | None = None
        self._fab = b""
        self._closed = False
        self._relays = RelayServer(settings.home)
        try:
            self._connected()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """`host:port` of the SuperLink."""
        if self._settings.external:
            return self._settings.external.address
        return self._embedded().address

    @property
    def root_certificates(self) -> Path | None:
        """File with the certificates that nodes must trust; None with plain HTTP."""
        if self._settings.external:
            return self._settings.external.root_certificates
        return self._embedded().root_certificates

    @property
    def superlink(self) -> SuperLink | None:
        """The embedded SuperLink; None if the SuperLink is external."""
        return self._superlink

    def register_node(self, public_key: bytes) -> int:
        """Registers a node, see `Engine.register_node`."""
        key = read_public_key(public_key)
        control = self._connected()
        try:
            return control.register_node(key.pem, key.fingerprint[:16])
        except AlreadyExists:
            for node in self.nodes():
                if node.fingerprint == key.fingerprint:
                    return node.node_id
            raise

    def unregister_node(self, node_id: int) -> None:
        """Removes a node, see `Engine.unregister_node`."""
        self._connected().unregister_node(node_id)

    def nodes(self) -> Sequence[NodeStatus]:
        """Returns the nodes, see `Engine.nodes`."""
        found = [
            NodeStatus(node.node_id, fingerprint_of_pem(node.public_key), node.status == "online")
            for node in self._connected().nodes()
            if node.status != "unregistered"
        ]
        return sorted(found, key=lambda node: node.fingerprint)

    def open_run(self, run_key: str, max_reply_bytes: int) -> Link:
        """Starts a Flower run, see `Engine.open_run`."""
        if not run_key or len(run_key) > _MAX_RUN_KEY:
            message = f"the run key has {len(run_key)} characters; it needs 1 to {_MAX_RUN_KEY}"
            raise InvalidArgument("BAD_RUN_KEY", message, field="run_key")
        control = self._connected()
        for run in control.runs():
            if run.fab_id == FAB_ID and run.config.get(RUN_KEY) == run_key and not run.finished:
                control.stop_run(run.run_id)
        config: dict[str, str | float] = {
            SOCKET_KEY: str(self._relays.socket),
            RUN_KEY: run_key,
            POLL_KEY: self._settings.poll_s,
        }
        run_id = control.start_run(self._fab, config)
        link = self._relays.open_link(run_id, max_reply_bytes, self._stop_run)
        try:
            self._wait_for_relay(control, link)
        except MeshError:
            link.close()
            raise
        return link

    def close(self) -> None:
        """Closes all links and ends the embedded SuperLink. Idempotent."""
        with self._lock:
            self._closed = True
            superlink, self._superlink = self._superlink, None
            control, self._control = self._control, None
            node_proxy, self._node_proxy = self._node_proxy, None
        self._relays.close()
        if node_proxy is not None:
            node_proxy.stop()
        if control is not None:
            control.close()
        if superlink is not None:
            superlink.stop()

    def _embedded(self) -> SuperLink:
        assert self._superlink is not None, "the engine is closed"
        return self._superlink

    def _connected(self) -> "Control":
        """Returns the client of the SuperLink's Control API. Starts the embedded SuperLink if it is not running."""
        from deepseek.federated.flower.control import Control, build_fab

        with self._lock:
            if self._closed:
                raise FailedPrecondition("ENGINE_CLOSED", "the engine is closed")
            self._fab = self._fab or build_fab(app_files())
            renew = self._superlink is not None and self._superlink.certificate_expires_soon
            if renew:
                self._relays.break_all("the SuperLink is started again with a new certificate")
                self._embedded().stop()
            if self._settings.external is None and (self._superlink is None or not self._superlink.running):
                if self._control is not None:
                    self._control.close()
                    self._control = None
                before = self._superlink.address if self._superlink else ""
                self._superlink = SuperLink(
                    self._settings.home, hosts=self._settings.hosts, on_end=self._superlink_ended
                )
                self._superlink.wait_until_ready()
                if self._settings.listen and (self._node_proxy is None or renew or self._superlink.address != before):
                    self._open_node_proxy(self._superlink)
            if self._control is None:
                root = self.root_certificates
                self._control = Control(self.address, root.read_bytes() if root else None)
            return self._control

    def _open_node_proxy(self, superlink: SuperLink) -> None:
        from deepseek.federated.flower.node_proxy import NodeProxy

        if self._node_proxy is not None:
            self._node_proxy.stop()
        log = self._settings.home / "node_proxy.log"
        self._node_proxy = NodeProxy(self._settings.listen, superlink.address, superlink.certificates, log)

    def _superlink_ended(self, status: int) -> None:
        self._relays.break_all(f"the SuperLink ended with status {status}")

    def _wait_for_relay(self, control: "Control", link: RelayLink) -> None:
        deadline = time.monotonic() + RELAY_TIMEOUT_S
        try:
            while not link.wait_until_connected(_POLL_INTERVAL_S):
                run = next((run for run in control.runs() if run.run_id == link.flower_run_id), None)
                if run is None or run.finished:
                    why = run.details if run else "Flower has no such run"
                    if ELSEWHERE in why and self._settings.external:
                        message = (
                            f"the SuperLink at {self.address} does not run its ServerApps on this machine; start it "
                            f"here, or start it with --isolation=process and flower-superexec here. {why}"
                        )
                        raise FailedPrecondition(ELSEWHERE, message)
                    raise Unavailable("RELAY_NOT_STARTED", f"the ServerApp did not start: {why}", retry_delay_s=1)
                if time.monotonic() > deadline:
                    message = f"the ServerApp did not connect within {RELAY_TIMEOUT_S:g} s; it must run on this machine"
                    raise Unavailable("RELAY_NOT_STARTED", message, retry_delay_s=1)
        except LinkBroken as error:
            raise Unavailable("RELAY_NOT_STARTED", error.message, retry_delay_s=1) from error

    def _stop_run(self, link: RelayLink) -> None:
        """Stops the run of a link that is closed or broken, in case its ServerApp is still running."""
        with self._lock:
            control = self._control
        if control is not None:
            with contextlib.suppress(MeshError):  # the SuperLink has ended, and the run with it
                control.stop_run(link.flower_run_id)
