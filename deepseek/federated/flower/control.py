"""Uses Flower's internal Control API: starts runs, registers nodes, and builds the app bundle.

Flower's public API has no client for these. Only this module and `reply_pull` use internal APIs of Flower, and
`tests/deepseek/federated/flower/test_control.py` checks each name that they use against the pinned version. Flower's
errors become errors of the mesh.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import AlreadyExists, FailedPrecondition, MeshError, Unavailable

FLOWER_VERSION = "1.42.0"
"""The version whose internal API this module uses."""

_NUM_RUNS = 100
_FINISHED = "finished"
_T = TypeVar("_T")


@dataclass(frozen=True)
class FlowerRun:
    """A run of Flower.

    Attributes:
        run_id: Flower's id.
        fab_id: Publisher and name of the run's app.
        finished: Whether the run has ended, for any reason.
        details: Why the run ended; may be empty.
        config: Values of the run's configuration that differ from those of the app.
    """

    run_id: int
    fab_id: str
    finished: bool
    details: str
    config: Mapping[str, str]


@dataclass(frozen=True)
class FlowerNode:
    """A node that is registered with Flower.

    Attributes:
        node_id: Flower's id.
        public_key: The key in PEM.
        status: State of the node in Flower: `registered`, `online`, `offline` or `unregistered`.
    """

    node_id: int
    public_key: bytes
    status: str


def check_version() -> None:
    """Checks that the installed version of Flower is the one whose internal API this module uses.

    Raises:
        FailedPrecondition: FLOWER_VERSION.
    """
    found = version("flwr")
    if found != FLOWER_VERSION:
        message = (
            f"flwr {found} is installed; the coordinator needs {FLOWER_VERSION}: pip install flwr=={FLOWER_VERSION}"
        )
        raise FailedPrecondition("FLOWER_VERSION", message)


def build_fab(files: Mapping[str, bytes]) -> bytes:
    """Returns a Flower App Bundle.

    Args:
        files: Content by path; includes `pyproject.toml`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower uses a deprecated name of pathspec
        return build_fab_from_files(dict(files))[0]


class Control:
    """Client of a SuperLink's Control API. Thread-safe.

    Args:
        address: `host:port` of the SuperLink.
        root_certificates: Certificates of the authorities to trust, in PEM; None means plain HTTP.
    """

    def __init__(self, address: str, root_certificates: bytes | None) -> None:
        check_version()
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            address, insecure=root_certificates is None, root_certificates=root_certificates, interceptors=[]
        )

    def start_run(self, fab: bytes, config: Mapping[str, str | float]) -> int:
        """Starts a run and returns its id.

        Args:
            fab: App bundle.
            config: Values that replace those of the app's configuration.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        request = StartRunRequest(
            fab=Fab(content=fab), override_config=user_config_to_proto(dict(config)), federation=""
        )
        run_id = self._call(lambda: self._client.StartRun(request)).run_id
        if not run_id:
            raise Unavailable("SUPERLINK_UNAVAILABLE", f"the SuperLink at {self._address} did not start the run")
        return run_id

    def stop_run(self, run_id: int) -> None:
        """Stops a run. Does nothing if it has ended or does not exist.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        with _ignoring(ApiErrorCode.RUN_ALREADY_FINISHED, ApiErrorCode.RUN_ID_NOT_FOUND):
            self._call(lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))

    def runs(self) -> list[FlowerRun]:
        """Returns the latest runs, newest first.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        found = self._call(lambda: self._client.ListRuns(ListRunsRequest(limit=_NUM_RUNS))).run_dict.values()
        return [
            FlowerRun(
                run.run_id,
                run.fab_id,
                run.status.status == _FINISHED,
                run.status.details,
                {name: value.string for name, value in run.override_config.items()},
            )
            for run in sorted(found, key=lambda run: run.pending_at, reverse=True)
        ]

    def register_node(self, public_key: bytes, name: str) -> int:
        """Registers a node and returns its id.

        Args:
            public_key: The key in PEM.
            name: Name of the node, for people.

        Raises:
            AlreadyExists: NODE_KEY_IN_USE if the key is registered already, or belonged to a node that was removed.
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return self._call(lambda: self._client.RegisterNode(request)).node_id

    def unregister_node(self, node_id: int) -> None:
        """Removes a node. Does nothing if it does not exist.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        with _ignoring(ApiErrorCode.NODE_NOT_FOUND):
            self._call(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def nodes(self) -> list[FlowerNode]:
        """Returns all nodes.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        found = self._call(lambda: self._client.ListNodes(ListNodesRequest())).nodes_info
        return [FlowerNode(node.node_id, node.public_key, node.status) for node in found]

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _call(self, send: Callable[[], _T]) -> _T:
        try:
            return send()
        except httpx.TransportError as error:
            message = f"the SuperLink at {self._address} cannot be reached: {error}"
            raise Unavailable("SUPERLINK_UNAVAILABLE", message, retry_delay_s=1) from error
        except httpx.HTTPStatusError as error:
            raise self._translated(error) from error

    def _translated(self, error: httpx.HTTPStatusError) -> MeshError:
        flower_error = FlowerError.from_json(error.response.text)
        if flower_error is not None:
            if flower_error.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                message = "the key belongs to a node that is registered or was removed; create a new key"
                return AlreadyExists("NODE_KEY_IN_USE", message, field="public_key")
            failure = _Refused("SUPERLINK_REFUSED", f"the SuperLink at {self._address}: {flower_error.message}")
            failure.flower_code = flower_error.code
            return failure
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            message = f"the SuperLink at {self._address} requires an account; use one without account authentication"
            return FailedPrecondition("SUPERLINK_ACCOUNT_REQUIRED", message)
        message = f"the SuperLink at {self._address} answered with status {error.response.status_code}"
        return Unavailable("SUPERLINK_UNAVAILABLE", message, retry_delay_s=1)


class _Refused(FailedPrecondition):
    """A request that Flower refused; `flower_code` says why."""

    flower_code: int = 0


@contextlib.contextmanager
def _ignoring(*codes: ApiErrorCode):  # type: ignore[no-untyped-def]  # yields nothing
    try:
        yield
    except _Refused as error:
        if error.flower_code not in codes:
            raise


def set_offline(address: str, root_certificates: Path, private_key: ec.EllipticCurvePrivateKey, node_id: int) -> bool:
    """Reports to the SuperLink, with the node's key, that the node's process has ended.

    Otherwise a SuperLink lets a node that was killed connect again only after a minute, when its heartbeat is overdue.

    Args:
        address: `host:port` of the SuperLink.
        root_certificates: File with the certificates of the authorities to trust.
        private_key: Key of the node.
        node_id: Flower's id of the node.

    Returns:
        Whether the SuperLink accepted the report. It does not if the node is offline already.
    """
    try:
        with FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=root_certificates.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(private_key, private_key.public_key())],
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except httpx.HTTPError:
        return False
    return True
