"""Asks a server of this machine whether it is ready: the health check of a container.

    python -m common.probe ADDRESS_FILE

The address file, which the server wrote itself, says where to ask and as whom: with the server's own certificate.
It runs every few seconds for ever, so it imports little: no settings, and nothing of what serves.
"""

import json
import sys
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.errors import MeshError

DEADLINE_S = 3.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def probe(address_file: Path) -> str:
    """Asks for the health of everything that a server offers.

    Args:
        address_file: As `common.server` writes it once it listens.

    Returns:
        What is wrong; empty if all of it is ready.
    """
    try:
        bound = json.loads(address_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"nothing listens yet: {address_file} is missing"
    host, _, port = bound["address"].rpartition(":")
    identity = Path(bound["identity"]) if bound["identity"] else None
    address = f"{_EVERYWHERE.get(host, host)}:{port}"
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
