"""The health of the services in a mesh, according to gRPC health checks."""

from dataclasses import dataclass
from pathlib import Path

from common.channel import open_channel
from common.errors import MeshError
from deepseek.client import MeshFile
from deepseek.services import SERVICES

_DEADLINE_S = 5


@dataclass(frozen=True)
class ServiceStatus:
    """The observed state of a service.

    Attributes:
        name: Name of the service, e.g. `registry`.
        address: `host:port` in the mesh file.
        pid: Process id; 0 if the service runs on another machine.
        state: `serving`, `not ready` (the service responds, but a dependency does not) or `down`.
    """

    name: str
    address: str
    pid: int
    state: str


def status(file: MeshFile) -> list[ServiceStatus]:
    """Returns the state of every service in a mesh."""
    return [ServiceStatus(name, one.address, one.pid, health(name, file)) for name, one in file.services.items()]


def health(name: str, file: MeshFile) -> str:
    """Checks the health of one service in a mesh.

    Returns:
        The state, as in `ServiceStatus`.
    """
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    service = file.services[name]
    # A service without a process id is behind an edge. An edge requires a token for every call, even a health check.
    token_file = Path(file.token_file) if file.token_file and not service.pid else None
    identity = Path(file.identity) if file.identity else None
    request = health_pb2.HealthCheckRequest(service=SERVICES[name].contract)
    try:
        with open_channel(
            service.address, identity=identity, token_file=token_file, service=name, deadline_s=_DEADLINE_S
        ) as channel:
            response = health_pb2_grpc.HealthStub(channel).Check(request)
    except MeshError:
        return "down"
    return "serving" if response.status == health_pb2.HealthCheckResponse.SERVING else "not ready"
