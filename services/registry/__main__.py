"""Serves the registry: `python -m services.registry`, by default on 127.0.0.1:7001."""

import sys
from contextlib import ExitStack
from pathlib import Path

from common.server import Hosted, MeshServer, make_server, run
from common.telemetry.process import open_state
from common.upkeep import servicer as upkeep
from protos.registry.v1 import registry_pb2_grpc
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog
from services.registry.lineage import Lineage
from services.registry.references import references
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from services.registry.watermarks import Watermarks

SERVICE = "deepseek.registry.v1.RegistryService"

_MIGRATIONS = Path(__file__).parent / "migrations"


def build(settings: RegistrySettings, owned: ExitStack) -> MeshServer:
    """A bound server, not yet started; `owned` closes its database after it."""
    database, telemetry = open_state(settings, _MIGRATIONS, owned)
    servicer = RegistryServicer(Catalog(database), Aliases(database), Lineage(database), Watermarks(database))

    def ready() -> bool:
        database.check()
        return True

    hosted = [
        Hosted(SERVICE, registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer),
        upkeep.hosted(settings, database, _MIGRATIONS, references),
    ]
    return make_server(settings, hosted, ready=ready, telemetry=telemetry)


if __name__ == "__main__":
    sys.exit(run(RegistrySettings, build))
