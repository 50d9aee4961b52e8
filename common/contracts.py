"""Finds descriptors of gRPC services by full name, in all protobuf pools.

Our contracts are in the default pool. Only the Open Inference Protocol has a pool of its own
(`protos.inference.v2.own_pool`), because another package may have registered the same names in the default pool.
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2

import protos
from protos.inference.v2 import own_pool


def import_contracts() -> list[str]:
    """Imports the generated modules of all contracts, and returns the full names of their gRPC services."""
    names = [module.name for module in pkgutil.walk_packages(protos.__path__, "protos.")]
    files = [import_module(name).DESCRIPTOR for name in names if name.endswith("_pb2")]
    return [service.full_name for file in files for service in file.services_by_name.values()]


def find_service(name: str) -> ServiceDescriptor:
    """Returns the descriptor of a gRPC service whose generated module has been imported.

    Args:
        name: Full name, e.g. `deepseek.job.v1.JobService`.

    Raises:
        KeyError: The service is unknown.
    """
    for pool in (own_pool.Default(), descriptor_pool.Default()):
        try:
            return pool.FindServiceByName(name)
        except KeyError:
            pass
    raise KeyError(name)


def pool_of(services: Iterable[str]) -> DescriptorPool:
    """Returns a pool with the .proto files of the services and of the error details, and all files that they import."""
    pool = DescriptorPool()
    for file in (error_details_pb2.DESCRIPTOR, *(find_service(name).file for name in services)):
        _add(pool, file)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    for dependency in file.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)
