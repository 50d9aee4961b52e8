"""The registry's part of the fault trials."""

import threading

from common.errors import DataLoss, NotFound
from deepseek.client.mesh import Mesh
from deepseek.models.manifest import MEDIA_TYPE
from protos.artifact.v1 import artifact_pb2
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer, request_id
from tests.harness.mesh import MeshProcesses

MODEL = "models/moved"
"""Has two versions; aliases move from one to the other."""
BUDGET = "budgets/trials"
RELEASE = privacy_pb2.Release(noise_multiplier=10, sampling_rate=0.01, count=1)


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


class Debitor(WritingClient):
    """Debits the budget `BUDGET`, which all trials share."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = privacy_pb2_grpc.PrivacyServiceStub(self.mesh.channel("registry"))
        self._debits: list[privacy_pb2.Debit] = []

    def work(self) -> None:
        for i in self.rounds():
            request = privacy_pb2.DebitRequest(
                budget=BUDGET, release=RELEASE, run=f"runs/{self.trial}", round=i + 1, request_id=request_id()
            )
            self._debits.append(answer(self._stub.Debit, request).debit)
            self.acknowledged()

    def check(self) -> None:
        run = f"runs/{self.trial}"
        found = {debit.name: debit for debit in self.mesh.budgets.debits(BUDGET) if debit.run == run}
        rounds = [debit.round for debit in found.values()]
        if len(set(rounds)) < len(rounds):
            self.findings.double_writers.append(f"{run} debited rounds {sorted(rounds)}")
        for debit in self._debits:
            if found.get(debit.name) != debit:
                self.findings.lost_writes.append(f"{debit.name} is gone or changed")
        try:
            self.mesh.budgets.verify(BUDGET, [(debit.name, debit.sha256) for debit in self._debits])
        except DataLoss as error:
            self.findings.lost_writes.append(error.message)


class RegistryWorkload(Workload):
    """Names, aliases and debits."""

    def __init__(self, mesh: MeshProcesses) -> None:
        with Mesh(mesh.file) as client:
            stub = registry_pb2_grpc.RegistryServiceStub(client.channel("registry"))
            for digest in (32 * "ab", 32 * "cd"):
                manifest = artifact_pb2.Artifact(sha256=digest, size_bytes=1, media_type=MEDIA_TYPE)
                stub.CreateModelVersion(registry_pb2.CreateModelVersionRequest(parent=MODEL, manifest=manifest))
            client.budgets.create(
                BUDGET, dataset="federations/trials", unit=privacy_pb2.UNIT_CLIENT, epsilon=500, delta=1e-6
            )

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Registrar(mesh, trial, enough), Debitor(mesh, trial, enough)]


WORKLOAD = RegistryWorkload
