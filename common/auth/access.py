"""Finds the role that each method requires, and which methods are not audited, from options in their .proto files."""

from collections.abc import Iterable, Mapping

from common.auth.caller import Role
from common.contracts import find_service
from protos.auth.v1 import auth_pb2

_REFLECTION = {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READER}


def role_of_methods(services: Iterable[str]) -> Mapping[str, Role]:
    """Returns the required role of each method of the given services and of server reflection.

    Args:
        services: Full names of gRPC services, e.g. `deepseek.job.v1.JobService`.

    Returns:
        Mapping from the path of a method, e.g. `/deepseek.job.v1.JobService/GetJob`, to its required role.

    Raises:
        ValueError: A method declares no role.
    """
    roles = dict(_REFLECTION)
    for service in services:
        for method in find_service(service).methods:
            declared: int = method.GetOptions().Extensions[auth_pb2.role]  # type: ignore[index]
            if declared == auth_pb2.ROLE_UNSPECIFIED:
                raise ValueError(f"{method.full_name} does not declare the option (deepseek.auth.v1.role)")
            roles[f"/{service}/{method.name}"] = Role(declared)
    return roles


def unaudited_methods(services: Iterable[str]) -> frozenset[str]:
    """Returns the paths of the methods whose successful calls the audit log omits.

    Args:
        services: Full names of gRPC services.
    """
    return frozenset(
        f"/{service}/{method.name}"
        for service in services
        for method in find_service(service).methods
        if method.GetOptions().Extensions[auth_pb2.unaudited]  # type: ignore[index]
    )
