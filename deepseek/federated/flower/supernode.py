"""Runs a node: Flower's own `flower-supernode`, with the command line and environment that our client app needs.

`command` returns a command line that works on any machine. `run_node` runs it, and starts it again if it was killed. A
SuperLink lets a node that was killed connect again only when its heartbeat is overdue, so `run_node` first reports that
the node has ended.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import FailedPrecondition, InvalidArgument
from common.files import disk_error
from common.ports import free_ports
from common.processes import bound_log, python, spawn, terminate
from deepseek.federated.flower import preload
from deepseek.federated.flower.fab import POLICY_KEYS
from deepseek.federated.flower.node_keys import read_private_key
from deepseek.federated.flower.superlink import SuperLinkAddress, environment
from deepseek.federated.node_policy import NodePolicy

_NODE_CONFIG = "--node-config="
_PRINTED_PORT = 9094
_NODE_ID = re.compile(rb"SuperNode ID: (\d+)")
_REFUSED_S = 90.0  # a SuperLink detects within 60 s that a node was killed
_RETRY_S = 3.0
_REFUSED = (
    "the SuperLink refused this node: its key is not registered, the node was removed, or it is connected already"
)
_STOP_TIMEOUT_S = 10.0
_LOG_INTERVAL_S = 60.0
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class NodeConfig:
    """A node of a federation.

    Attributes:
        superlink: Address of the SuperLink.
        private_key: File with the node's private key; None only with plain HTTP, which Flower does not combine with
            keys.
        work_folder: Folder for the worker, its log and Flower's files; created if missing.
        data: The node's data: a folder, a Parquet file or a data set version of a mesh.
        worker: Module of the worker.
        policy: What the node demands of tasks.
        preload: Whether a process that has imported Flower starts the client apps (`preload`). Otherwise, each message
            costs about three more seconds of CPU time.
    """

    superlink: SuperLinkAddress
    private_key: Path | None
    work_folder: Path
    data: str
    worker: str = "deepseek.federated.worker"
    policy: NodePolicy = field(default_factory=NodePolicy)
    preload: bool = True


def command(config: NodeConfig, port: int) -> list[str]:
    """Returns the command line of the node.

    Args:
        port: Free port on loopback, through which Flower's processes of the node communicate.

    Raises:
        InvalidArgument: NODE_KEY_REQUIRED or BAD_NODE_CONFIG.
    """
    superlink = config.superlink
    argv = ["flower-supernode", f"--superlink={superlink.address}", "--host=127.0.0.1", f"--port={port}"]
    if superlink.root_certificates is None:
        argv.append("--insecure")
    elif config.private_key is None:
        message = "a node that connects with TLS needs a private key; create one with `ssh-keygen -t ecdsa -b 384`"
        raise InvalidArgument("NODE_KEY_REQUIRED", message, field="private_key")
    else:
        argv.append(f"--root-certificates={superlink.root_certificates.absolute()}")
        argv.append(f"--auth-supernode-private-key={config.private_key.absolute()}")
    values = {"work-folder": str(config.work_folder.absolute()), "data": config.data, "worker": config.worker}
    pairs = [f"{name}={_quoted(value, name)}" for name, value in values.items()]
    argv.append(f"{_NODE_CONFIG}{' '.join([*pairs, *_policy_pairs(config.policy)])}")
    return argv


def with_policy(argv: Sequence[str], policy: NodePolicy) -> list[str]:
    """Returns the command line of a node with a policy, given that of the same node without one."""
    extra = "".join(f" {pair}" for pair in _policy_pairs(policy))
    return [f"{argument}{extra}" if argument.startswith(_NODE_CONFIG) else argument for argument in argv]


def node_environment(config: NodeConfig) -> dict[str, str]:
    """Returns the environment of the node."""
    # SuperExec asks its SuperNode for work every second by default, which would delay each task.
    return {**environment(config.work_folder.absolute() / "flwr"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}


def printed_command(config: NodeConfig, port: int) -> tuple[list[str], dict[str, str]]:
    """Returns the command line of the node and Flower's settings, for a person to run it on any machine.

    Args:
        port: As in `command`; 0 means 9094.

    Raises:
        InvalidArgument: As in `command`.
    """
    settings = {name: value for name, value in node_environment(config).items() if name.startswith("FLWR_")}
    return command(config, port or _PRINTED_PORT), settings


class Node:
    """A running node. Not thread-safe.

    Args:
        config: The node.
        port: Free port on loopback, see `command`; 0 chooses one.
    """

    def __init__(self, config: NodeConfig, *, port: int = 0) -> None:
        self._config = config
        try:
            config.work_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, config.work_folder) from error
        self._key = read_private_key(config.private_key)[0] if config.private_key else None
        self._port = port or free_ports(1)[0]
        self._last_id: int | None = None
        self._programs = config.work_folder.absolute() / "bin"
        self._socket = config.work_folder.absolute() / "apps.sock"
        self._preload = self._start_preload() if config.preload and sys.platform == "linux" else None
        self._read_to = self._log_size()
        self._process = self._spawn()

    @property
    def log_file(self) -> Path:
        """File with the output of Flower's processes."""
        return self._config.work_folder / "supernode.log"

    @property
    def pid(self) -> int:
        """Id of the SuperNode's process."""
        return self._process.pid

    @property
    def preload_pid(self) -> int | None:
        """Id of the process that starts the client apps; None if Flower starts them itself."""
        return self._preload.pid if self._preload else None

    def poll(self) -> int | None:
        """Returns the exit status of the SuperNode; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for the exit status of the SuperNode.

        Raises:
            subprocess.TimeoutExpired: The SuperNode still runs after `timeout_s` seconds.
        """
        return self._process.wait(timeout_s)

    @property
    def node_id(self) -> int | None:
        """Flower's id of the node; None if it has not connected since this object was created."""
        self._read_log()
        return self._last_id

    @property
    def refused(self) -> bool:
        """Whether the SuperLink refused the node's key, or still counts the node as connected."""
        if self.poll() in (None, 0):
            return False
        with self.log_file.open("rb") as file:
            file.seek(max(self._spawned_at, self._log_size() - _TAIL_BYTES))
            return b"Exit Code: 305" in file.read(_TAIL_BYTES)

    def bound_log(self) -> None:
        """Starts a new log if the log is too long, see `common.processes.bound_log`."""
        self._read_log()
        if bound_log(self.log_file):
            self._read_to = self._spawned_at = 0

    def restart(self) -> None:
        """Starts the SuperNode again after it has ended."""
        from deepseek.federated.flower.control import set_offline

        self._process.wait()
        superlink = self._config.superlink
        if self._key and superlink.root_certificates and (node_id := self.node_id) is not None:
            set_offline(superlink.address, superlink.root_certificates, self._key, node_id)
        self._process = self._spawn()

    def stop(self) -> None:
        """Ends the node and the processes that it started. Idempotent."""
        if self._process.poll() is None:
            terminate(self._process, grace_s=_STOP_TIMEOUT_S)
        if self._preload is not None:
            self._preload.kill()
            self._preload.wait()
        self._socket.unlink(missing_ok=True)

    def _start_preload(self) -> "subprocess.Popen[bytes]":
        preload.install(self._programs, self._socket)
        # The threads of OpenBLAS would make forks unsafe; the client app computes nothing.
        variables = {**node_environment(self._config), "OPENBLAS_NUM_THREADS": "1"}
        return spawn(python(preload.__name__, str(self._socket)), env=variables, log=self.log_file)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        variables = node_environment(self._config)
        if self._preload is not None:
            variables["PATH"] = f"{self._programs}{os.pathsep}{variables['PATH']}"
        self.bound_log()
        self._spawned_at = self._log_size()
        return spawn(command(self._config, self._port), env=variables, log=self.log_file)

    def _read_log(self) -> None:
        """Reads the lines that are new."""
        if self._log_size() <= self._read_to:
            return
        with self.log_file.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):  # not complete
                    break
                self._read_to += len(line)
                if found := _NODE_ID.search(line):
                    self._last_id = int(found[1])

    def _log_size(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0


def run_node(config: NodeConfig, *, report: Callable[[str], None], port: int = 0) -> None:
    """Runs a node until the SuperLink refuses it or this process is interrupted. Starts it again if it was killed.

    Args:
        config: The node.
        report: Called with a line of text for people, e.g. when the SuperNode is started again.
        port: Free port on loopback, see `command`; 0 chooses one.

    Raises:
        FailedPrecondition: NODE_REFUSED if the node's key is not registered; NODE_ENDED if the SuperNode ended for
            another reason, with the last line of its output.
    """
    node = Node(config, port=port)
    refused_since: float | None = None
    try:
        while True:
            status = _wait(node)
            if status == 0:
                report("the SuperNode has ended: it was stopped, or the node was removed from the federation")
                return
            if node.refused:
                if refused_since is None:
                    refused_since = time.monotonic()
                    report(f"{_REFUSED}; trying for {_REFUSED_S:.0f} s")
                if time.monotonic() - refused_since > _REFUSED_S:
                    raise FailedPrecondition("NODE_REFUSED", f"{_REFUSED}; register its public key, run each node once")
                time.sleep(_RETRY_S)
            elif status > 0:
                raise FailedPrecondition("NODE_ENDED", f"the SuperNode ended with status {status}: see {node.log_file}")
            else:
                refused_since = None
                report("the SuperNode was killed; starting it again")
            node.restart()
    finally:
        node.stop()


def _wait(node: Node) -> int:
    """Waits for the exit status of a node, and bounds its log in the meantime."""
    while True:
        try:
            return node.wait(_LOG_INTERVAL_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):  # a full disk
                node.bound_log()


def _policy_pairs(policy: NodePolicy) -> list[str]:
    if policy == NodePolicy():
        return []
    # Flower reads the values as TOML, in which numbers and truth values are written as in JSON.
    return [f"{key}={json.dumps(getattr(policy, key.replace('-', '_')))}" for key in POLICY_KEYS]


def _quoted(value: str, name: str) -> str:
    """Returns a value as Flower's parser of node configurations expects it: a TOML string."""
    if "\n" in value or '"' in value or "\\" in value:
        message = f"{name} must not contain quotes, backslashes or line breaks: {value!r}"
        raise InvalidArgument("BAD_NODE_CONFIG", message, field=name)
    return f'"{value}"'
