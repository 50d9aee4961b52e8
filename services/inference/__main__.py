"""Serves models: `python -m services.inference`, by default on 127.0.0.1:8001."""

import sys
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

from common.artifacts import open_store
from common.channel import open_channel
from common.server import Hosted, MeshServer, make_server, run
from common.telemetry.process import open_state
from common.upkeep import servicer as upkeep
from deepseek.processor import instruction_set
from protos.inference.v2 import inference_pb2_grpc
from services.inference.engine import RUNTIME, Engine
from services.inference.references import references
from services.inference.registry import RegistryClient
from services.inference.repository import Host, Repository
from services.inference.servicer import InferenceServicer
from services.inference.settings import InferenceSettings

SERVICE = "inference.GRPCInferenceService"

_MIGRATIONS = Path(__file__).parent / "migrations"


def build(settings: InferenceSettings, owned: ExitStack) -> MeshServer:
    """A bound server, not yet started, whose models are being restored; `owned` closes what it uses after it."""
    database, telemetry = open_state(settings, _MIGRATIONS, owned)
    channel = open_channel(settings.registry, identity=settings.identity, deadline_s=settings.deadline_s)
    owned.callback(channel.close)
    store = open_store(
        settings.store_url,
        access_key_file=settings.store_access_key_file,
        secret_key_file=settings.store_secret_key_file,
    )
    repository = Repository(
        database,
        telemetry.measured(store),
        RegistryClient(channel),
        settings.home / "cache" / "inference",
        partial(Engine, device=settings.device, intra_op_threads=settings.intra_op_threads),
        Host(instruction_set(), f"{settings.device}, {settings.intra_op_threads} threads, {RUNTIME}"),
    )
    telemetry.watch_served(repository.count_served)

    def ready() -> bool:
        database.check()
        return repository.ready

    servicer = InferenceServicer(repository, version("deepseek-mesh"))
    hosted = [
        Hosted(SERVICE, inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicer),
        upkeep.hosted(settings, database, _MIGRATIONS, references, on_import=repository.restore_more),
    ]
    server = make_server(settings, hosted, ready=ready, telemetry=telemetry)
    repository.start()
    owned.callback(repository.close)
    return server


if __name__ == "__main__":
    sys.exit(run(InferenceSettings, build))
