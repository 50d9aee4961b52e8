"""Assembles the registry from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.privacy.v1 import privacy_pb2_grpc
from protos.registry.v1 import registry_pb2_grpc
from services.registry.aliases import Aliases
from services.registry.budgets import Budgets
from services.registry.catalog import Catalog
from services.registry.deletion import Deletions
from services.registry.ledger import Ledger
from services.registry.ledger_audit import AuditedDebits
from services.registry.lineage import Lineage
from services.registry.privacy_servicer import PrivacyServicer
from services.registry.references import references
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from services.registry.watermarks import Watermarks

__all__ = ["build", "references"]

PRIVACY_CONTRACT = "deepseek.privacy.v1.PrivacyService"


def build(process: ServiceProcess[RegistrySettings]) -> GrpcService:
    """Creates the gRPC services, which need only the database and the audit log."""
    database = process.database
    servicer = RegistryServicer(
        Catalog(database), Aliases(database), Lineage(database), Watermarks(database), Deletions(database)
    )
    ledger = PrivacyServicer(Budgets(database), Ledger(database, AuditedDebits(process.settings.audit_file)))
    process.host(PRIVACY_CONTRACT, privacy_pb2_grpc.add_PrivacyServiceServicer_to_server, ledger)
    return process.grpc_service(registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer)
