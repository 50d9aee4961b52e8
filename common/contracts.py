"""Descriptors of gRPC services by full name, in whichever protobuf pool they are.

All our contracts register in the default pool except the Open Inference Protocol (`protos.inference.v2.own_pool`),
whose names another package may have registered there.
"""

from collections.abc import Iterable

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2

from protos.inference.v2 import own_pool


def find_service(name: str) -> ServiceDescriptor:
    """Returns the descriptor of a gRPC service whose generated module has been imported.

    Args:
        name: Its full name, e.g. `deepseek.job.v1.JobService`.

    Raises:
        KeyError: There is no such service.
    """
    for pool in (own_pool.Default(), descriptor_pool.Default()):
        try:
            return pool.FindServiceByName(name)
        except KeyError:
            pass
    raise KeyError(name)


def pool_of(services: Iterable[str]) -> DescriptorPool:
    """Returns a pool with the files of some services, of error details, and of their imports."""
    pool = DescriptorPool()
    for file in (error_details_pb2.DESCRIPTOR, *(find_service(name).file for name in services)):
        _add(pool, file)
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    for dependency in file.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)
