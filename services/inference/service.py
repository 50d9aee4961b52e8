"""Assembles the inference service from its components."""

from functools import partial
from importlib.metadata import version

from common.server import GrpcService
from common.server.process import ServiceProcess
from deepseek.processor import instruction_set
from protos.inference.v2 import inference_pb2_grpc
from services.inference.clients.registry import RegistryClient
from services.inference.engine import RUNTIME, Engine
from services.inference.loaded import HostKind
from services.inference.references import references
from services.inference.repository import Repository
from services.inference.servicer import InferenceServicer
from services.inference.settings import InferenceSettings

__all__ = ["build", "references"]


def build(process: ServiceProcess[InferenceSettings]) -> GrpcService:
    """Creates the gRPC service. It is ready once it has tried to restore each previously loaded model."""
    settings = process.settings
    repository = Repository(
        process.database,
        process.store,
        RegistryClient(process.channel("registry")),
        settings.home / "cache" / "inference",
        partial(Engine, device=settings.device, intra_op_threads=settings.intra_op_threads),
        HostKind(instruction_set(), f"{settings.device}, {settings.intra_op_threads} threads, {RUNTIME}"),
    )
    process.telemetry.watch_served(repository.count_served)
    process.ready_when(lambda: repository.ready)
    process.on_start(repository.start, stop=repository.close)
    process.on_import(repository.restore_more)
    servicer = InferenceServicer(repository, version("deepseek-mesh"))
    return process.grpc_service(inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicer)
