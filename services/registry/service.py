"""Assembles the registry from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.registry.v1 import registry_pb2_grpc
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog
from services.registry.deletion import Deletions
from services.registry.lineage import Lineage
from services.registry.references import references
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from services.registry.watermarks import Watermarks

__all__ = ["build", "references"]


def build(process: ServiceProcess[RegistrySettings]) -> GrpcService:
    """Creates the gRPC service, which needs only the database."""
    database = process.database
    servicer = RegistryServicer(
        Catalog(database), Aliases(database), Lineage(database), Watermarks(database), Deletions(database)
    )
    return process.grpc_service(registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer)
