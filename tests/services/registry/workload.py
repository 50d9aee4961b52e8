"""The registry's part of the fault trials."""

import threading

from common.errors import NotFound
from deepseek.client.mesh import Mesh
from deepseek.models.manifest import MEDIA_TYPE
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer, request_id
from tests.harness.mesh import MeshProcesses

MODEL = "models/moved"
"""Has two versions; aliases move from one to the other."""


class Registrar(WritingClient):
    """Creates models, and moves an alias back and forth."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = registry_pb2_grpc.RegistryServiceStub(self.mesh.channel("registry"))
        self._alias = f"{MODEL}/aliases/{trial}"
        self._models: list[str] = []
        self._moves: list[tuple[str, str]] = []

    def work(self) -> None:
        at = ""
        for i in self.rounds():
            create = registry_pb2.CreateModelRequest(model_id=f"{self.trial}-m{i}", request_id=request_id())
            made = answer(self._stub.CreateModel, create)
            self._models.append(made.model.name)
            self.acknowledged()
            to = f"{MODEL}/versions/{1 + i % 2}"
            move = registry_pb2.SetAliasRequest(
                name=self._alias, version=to, expected_version=at, request_id=request_id()
            )
            answer(self._stub.SetAlias, move)
            self._moves.append((at, to))
            self.acknowledged()
            at = to

    def check(self) -> None:
        for name in self._models:
            try:
                self._stub.GetModel(registry_pb2.GetModelRequest(name=name))
            except NotFound:
                self.findings.lost_writes.append(f"{name} is gone")
        request = registry_pb2.ListAliasHistoryRequest(name=self._alias, page_size=1000)
        found = [(m.from_version, m.to_version) for m in self._stub.ListAliasHistory(request).moves]
        if len(found) > len(self._moves):
            self.findings.double_writers.append(f"{self._alias} moved {len(found)} times, not {len(self._moves)}")
        elif found[::-1] != self._moves[-1000:]:
            self.findings.lost_writes.append(f"{self._alias} has {len(found)} of {len(self._moves)} moves")


class RegistryWorkload(Workload):
    """Names and aliases."""

    def __init__(self, mesh: MeshProcesses) -> None:
        with Mesh(mesh.file) as client:
            stub = registry_pb2_grpc.RegistryServiceStub(client.channel("registry"))
            for digest in (32 * "ab", 32 * "cd"):
                manifest = artifact_pb2.Artifact(sha256=digest, size_bytes=1, media_type=MEDIA_TYPE)
                stub.CreateModelVersion(registry_pb2.CreateModelVersionRequest(parent=MODEL, manifest=manifest))

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Registrar(mesh, trial, enough)]


WORKLOAD = RegistryWorkload
