"""The health check of a container: checks that a server on this machine is ready.

    python -m common.probe ADDRESS_FILE

The server writes the address file, which contains the server's address and the folder of its certificate. The probe
presents the same certificate. Because the probe runs every few seconds, it imports no settings and no server code.
"""

import json
import sys
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.errors import MeshError

DEADLINE_S = 10.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def probe(address_file: Path) -> str:
    """Checks the health of every gRPC service that a server hosts.

    Args:
        address_file: File that the server writes once it listens.

    Returns:
        A description of the problem; empty if all services are ready.
    """
    try:
        bound = json.loads(address_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"the server is not listening yet: {address_file} is missing"
    host, _, port = bound["address"].rpartition(":")
    identity = Path(bound["identity"]) if bound["identity"] else None
    address = f"{_WILDCARDS.get(host, host)}:{port}"
    try:
        with open_channel(address, identity=identity, deadline_s=DEADLINE_S, retry=False) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in bound["names"]:
                answer = health.Check(health_pb2.HealthCheckRequest(service=name))
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    return f"{name} is not ready"
    except MeshError as error:
        return error.message
    return ""


if __name__ == "__main__":
    sys.exit(probe(Path(sys.argv[1])) or 0)
