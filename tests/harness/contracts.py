"""The methods that our contracts declare, and how to call one without generated code."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from common.auth import Role
from common.auth.access import role_of_methods
from common.contracts import find_service, import_contracts
from deepseek.services import SERVICES
from tests.harness.identity import Metadata

EVERYWHERE = (health.SERVICE_NAME, reflection.SERVICE_NAME)
"""gRPC services that every server hosts besides the declared ones."""

_ON_A_SOCKET = {"deepseek.federated.v1.RelayService"}
OURS = tuple(name for name in import_contracts() if name not in _ON_A_SOCKET)
"""Full names of the gRPC services of all contracts below `protos/`, less those that only a Unix socket offers."""

_FOREIGN = (health_pb2, reflection_pb2)  # imported, so that their descriptors are known


@dataclass(frozen=True)
class Method:
    """A method as a service of the mesh offers it; its text names a test.

    Attributes:
        service: The service that hosts it, e.g. `ingest`.
        descriptor: What the contract says.
        role: The least role; the lowest one where the contract declares none.
    """

    service: str
    descriptor: MethodDescriptor
    role: Role

    def __str__(self) -> str:
        return f"{self.service}-{self.name}"

    @property
    def name(self) -> str:
        """The last part of its name, e.g. `GetJob`."""
        return str(self.descriptor.name)

    @property
    def contract(self) -> str:
        """Full name of the gRPC service, e.g. `deepseek.job.v1.JobService`."""
        return str(self.descriptor.containing_service.full_name)

    @property
    def path(self) -> str:
        """What gRPC calls, e.g. `/deepseek.job.v1.JobService/GetJob`."""
        return f"/{self.contract}/{self.name}"

    @property
    def kind(self) -> str:
        """The name of grpc's functions for it, e.g. `unary_stream`."""
        streams = self.descriptor.client_streaming, self.descriptor.server_streaming
        return "_".join("stream" if is_stream else "unary" for is_stream in streams)

    @property
    def request(self) -> type[Message]:
        """Class of its request."""
        return message_factory.GetMessageClass(self.descriptor.input_type)

    def call(self, channel: grpc.Channel, request: bytes, metadata: Metadata = ()) -> bytes:
        """Returns the response, or the first of several; empty if a stream has none.

        Raises:
            grpc.RpcError: The server refuses the call.
        """
        method = getattr(channel, self.kind)(self.path)
        argument = iter([request]) if self.kind.startswith("stream") else request
        response = method(argument, timeout=30, metadata=metadata)
        return bytes(response) if self.kind.endswith("unary") else bytes(next(response, b""))

    def outcome(self, channel: grpc.Channel, request: bytes, metadata: Metadata = ()) -> bytes | grpc.StatusCode:
        """Returns the response as `call`, or the status with which the server refuses the call."""
        try:
            return self.call(channel, request, metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code


def methods_of(service: str, contract: str) -> Iterator[Method]:
    """Yields the methods of a gRPC service, as hosted by a service of the mesh."""
    roles = role_of_methods([contract] if contract in OURS else [])
    for method in find_service(contract).methods:
        yield Method(service, method, roles.get(f"/{contract}/{method.name}", Role.PREDICTOR))


def own_methods(service: str) -> list[Method]:
    """The methods of the gRPC services that only this service hosts."""
    return [method for contract in SERVICES[service].own_contracts for method in methods_of(service, contract)]


def hosted(service: str) -> Sequence[str]:
    """Full names of the gRPC services that a service hosts by its declaration."""
    return (*SERVICES[service].contracts, *EVERYWHERE)


def all_methods() -> list[Method]:
    """Every method of every service."""
    return [method for name in SERVICES for contract in hosted(name) for method in methods_of(name, contract)]
