"""The coordinator's part of the fault trials. Runs with nodes that are killed have trials of their own."""

import threading

from common.errors import NotFound
from protos.federated.v1 import federated_pb2, federated_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer, request_id
from tests.harness.mesh import MeshProcesses


class Organizer(WritingClient):
    """Creates federations, and deletes every second one."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = federated_pb2_grpc.FederatedServiceStub(self.mesh.channel("federated"))
        self._before = self._names()
        self._kept: list[str] = []
        self._deleted: list[str] = []

    def work(self) -> None:
        for i in self.rounds():
            create = federated_pb2.CreateFederationRequest(
                federation_id=f"{self.trial}-{i}", description=self.trial, request_id=request_id()
            )
            name = answer(self._stub.CreateFederation, create).federation.name
            self.acknowledged()
            if i % 2:
                self._delete(name)
                self._deleted.append(name)
                self.acknowledged()
            else:
                self._kept.append(name)

    def _delete(self, name: str) -> None:
        try:
            answer(self._stub.DeleteFederation, federated_pb2.DeleteFederationRequest(name=name))
        except NotFound:  # an earlier attempt, whose response was lost, has deleted it
            return

    def check(self) -> None:
        names = self._names() - self._before
        self.findings.lost_writes += [f"{name} is gone" for name in self._kept if name not in names]
        self.findings.lost_writes += [f"{name} was deleted and is there" for name in self._deleted if name in names]
        unasked = names - {*self._kept, *self._deleted}
        self.findings.double_writers += [f"{name} was never asked for" for name in unasked]
        for name in self._kept:
            if self.mesh.federated.get(name).description != self.trial:
                self.findings.torn_reads.append(f"{name} has another description")
            self.findings.num_reads += 1

    def _names(self) -> set[str]:
        return {one.name for one in self.mesh.federated.list()}


class FederatedWorkload(Workload):
    """Federations, which depend on nothing that must be created first."""

    def __init__(self, mesh: MeshProcesses) -> None:
        pass

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Organizer(mesh, trial, enough)]


WORKLOAD = FederatedWorkload
