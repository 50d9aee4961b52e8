"""Client of a mesh's federations: their nodes and their runs.

A federation is named `<id>` or `federations/<id>`, a node `<federation>/<id>`, and a run `<federation>/<id>`; resource
names are accepted, too.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format

from common.errors import Cancelled, InvalidArgument
from deepseek.client import jobs
from deepseek.client.connection import Connection
from deepseek.client.names import (
    budget_name,
    federated_run_name,
    federation_name,
    node_name,
    series_id,
    version_name,
)
from deepseek.client.pages import pages
from deepseek.client.resume import PATIENCE_S, resumed
from deepseek.federated.run_spec import FederatedRunSpec
from deepseek.trainjob.spec_parts import Problems
from protos.federated.v1 import federated_pb2, federated_pb2_grpc

REGISTER_S = 120.0
"""Deadline of calls that may have to start the SuperLink, in seconds."""
START_S = 180.0
"""Deadline of StartRun, in seconds: it may compute how much noise a budget allows."""


def parse_federated_spec(spec: Mapping[str, Any]) -> federated_pb2.FederatedRunSpec:
    """Converts plain data, such as the parsed content of a JSON or TOML file, to the spec of a federated run.

    Names of versions, of the target model and of the budget may have any form that `deepseek.client.names` reads.

    Raises:
        InvalidArgument: UNKNOWN_FIELD, BAD_VALUE or BAD_NAME, with the path of the first invalid field. The violations
            list every invalid field.
    """
    given, problems, read = dict(spec), Problems(), FederatedRunSpec()
    if isinstance(model := given.get("model"), Mapping):
        given["model"] = model = dict(model)
        for field, collection in (("dataset_version", "datasets"), ("init", "models")):
            if isinstance(model.get(field), str) and model[field]:
                with problems.caught():
                    name = version_name(model[field], collection, field=f"spec.model.{field}")  # type: ignore[arg-type]
                    model[field] = name
    if isinstance(given.get("target_model"), str) and given["target_model"]:
        with problems.caught():
            given["target_model"] = f"models/{series_id(given['target_model'], 'models', field='spec.target_model')}"
    if isinstance(privacy := given.get("privacy"), Mapping) and isinstance(privacy.get("budget"), str):
        with problems.caught():
            budget = budget_name(privacy["budget"], field="spec.privacy.budget")
            given["privacy"] = {**privacy, "budget": budget}
    with problems.caught():
        read = FederatedRunSpec.from_json(given)
    problems.check()
    try:
        return json_format.ParseDict(read.to_json(), federated_pb2.FederatedRunSpec())
    except json_format.ParseError as error:
        raise InvalidArgument("BAD_VALUE", f"the spec cannot be sent: {error}", field="spec") from error


class Federations:
    """Client of a mesh's federations, available as `Mesh.federated`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = federated_pb2_grpc.FederatedServiceStub(connection.channel("federated"))

    def create(self, federation: str, *, description: str = "", request_id: str = "") -> federated_pb2.Federation:
        """Creates a federation without nodes.

        Args:
            federation: Name of the new federation.
            description: Free text for people.
            request_id: Id under which the call may be repeated; a new one by default.
        """
        request = federated_pb2.CreateFederationRequest(
            federation_id=federation_name(federation, field="federation").removeprefix("federations/"),
            description=description,
            request_id=request_id or uuid.uuid4().hex,
        )
        created: federated_pb2.Federation = self._stub.CreateFederation(request).federation
        return created

    def get(self, federation: str) -> federated_pb2.Federation:
        """Returns a federation."""
        request = federated_pb2.GetFederationRequest(name=federation_name(federation, field="federation"))
        found: federated_pb2.Federation = self._stub.GetFederation(request).federation
        return found

    def list(self) -> Iterator[federated_pb2.Federation]:
        """Yields every federation, ordered by id."""
        for page in pages(self._stub.ListFederations, federated_pb2.ListFederationsRequest()):
            yield from page.federations

    def delete(self, federation: str) -> None:
        """Deletes a federation with its nodes and its runs.

        Raises:
            FailedPrecondition: RUN_ACTIVE if a run has not ended.
        """
        request = federated_pb2.DeleteFederationRequest(name=federation_name(federation, field="federation"))
        self._stub.DeleteFederation(request)

    def register(self, federation: str, node: str, public_key: str, *, request_id: str = "") -> federated_pb2.Node:
        """Allows the holder of a private key to join a federation.

        Args:
            federation: Name of the federation.
            node: Id of the new node.
            public_key: Its public key in OpenSSH form, i.e. the content of the `.pub` file.
            request_id: Id under which the call may be repeated; a new one by default.

        Raises:
            MeshError: Any error that `FederatedService.RegisterNode` documents.
        """
        request = federated_pb2.RegisterNodeRequest(
            parent=federation_name(federation, field="federation"),
            node_id=node,
            public_key=public_key,
            request_id=request_id or uuid.uuid4().hex,
        )
        registered: federated_pb2.Node = self._stub.RegisterNode(request, timeout=REGISTER_S).node
        return registered

    def nodes(self, federation: str) -> Iterator[federated_pb2.Node]:
        """Yields every node of a federation, ordered by id."""
        request = federated_pb2.ListNodesRequest(parent=federation_name(federation, field="federation"))
        for page in pages(self._stub.ListNodes, request):
            yield from page.nodes

    def remove(self, node: str) -> None:
        """Removes a node from its federation and disconnects it."""
        request = federated_pb2.RemoveNodeRequest(name=node_name(node, field="node"))
        self._stub.RemoveNode(request, timeout=REGISTER_S)

    def join_instructions(
        self,
        node: str,
        *,
        data: str = "",
        private_key_file: str = "",
        root_certificate_file: str = "",
        work_folder: str = "",
        port: int = 0,
    ) -> federated_pb2.GetJoinInstructionsResponse:
        """Returns the address and the root certificate of the SuperLink, and the command with which a node joins.

        Args:
            node: Name of the node.
            data: Data of the node. `GetJoinInstructionsRequest` documents its forms, and the defaults of all arguments.
            private_key_file: Absolute path of the private key on the machine of the node.
            root_certificate_file: Absolute path of the root certificate on the machine of the node.
            work_folder: Absolute path of the folder for the files of the node.
            port: Free port on loopback of the machine of the node.
        """
        request = federated_pb2.GetJoinInstructionsRequest(
            name=node_name(node, field="node"),
            data=data,
            private_key_file=private_key_file,
            root_certificate_file=root_certificate_file,
            work_folder=work_folder,
            port=port,
        )
        response: federated_pb2.GetJoinInstructionsResponse = self._stub.GetJoinInstructions(
            request, timeout=REGISTER_S
        )
        return response

    def start(
        self,
        federation: str,
        spec: Mapping[str, Any] | federated_pb2.FederatedRunSpec,
        *,
        request_id: str = "",
    ) -> federated_pb2.Run:
        """Starts a run.

        Args:
            federation: Name of the federation.
            spec: Spec, with the field names of `FederatedRunSpec`.
            request_id: Id under which the call may be repeated; a new one by default.

        Raises:
            MeshError: Any error that `FederatedService.StartRun` documents. Nothing was started.
        """
        message = spec if isinstance(spec, federated_pb2.FederatedRunSpec) else parse_federated_spec(spec)
        request = federated_pb2.StartRunRequest(
            parent=federation_name(federation, field="federation"),
            spec=message,
            request_id=request_id or uuid.uuid4().hex,
        )
        run: federated_pb2.Run = self._stub.StartRun(request, timeout=START_S).run
        return run

    def run(self, name: str) -> federated_pb2.Run:
        """Returns a run by name."""
        request = federated_pb2.GetRunRequest(name=federated_run_name(name, field="run"))
        found: federated_pb2.Run = self._stub.GetRun(request).run
        return found

    def runs(self, federation: str, *, active_only: bool = False) -> Iterator[federated_pb2.Run]:
        """Yields the runs of a federation, newest first."""
        parent = federation_name(federation, field="federation")
        request = federated_pb2.ListRunsRequest(parent=parent, active_only=active_only)
        for page in pages(self._stub.ListRuns, request):
            yield from page.runs

    def watch(
        self, name: str, *, after_sequence: int = 0, patience_s: float = PATIENCE_S
    ) -> Iterator[federated_pb2.RunEvent]:
        """Yields the events of a run until the run ends. Resumes if the coordinator restarts.

        Args:
            name: Name of the run.
            after_sequence: Sequence number. Only events with a higher number are yielded.
            patience_s: Time in seconds. If the coordinator is unavailable, this call retries until it has waited this
                long for the next event.
        """
        run = federated_run_name(name, field="run")

        def rest() -> Iterator[federated_pb2.WatchRunResponse]:
            return iter(self._stub.WatchRun(federated_pb2.WatchRunRequest(name=run, after_sequence=after_sequence)))

        for response in resumed(rest, patience_s=patience_s):
            after_sequence = response.event.sequence
            yield response.event

    def history(self, name: str) -> builtins.list[federated_pb2.RunEvent]:
        """Returns the events of a run so far."""
        request = federated_pb2.WatchRunRequest(name=federated_run_name(name, field="run"), stored_only=True)
        return [response.event for response in self._stub.WatchRun(request)]

    def stop(self, name: str) -> federated_pb2.Run:
        """Asks a run to stop. The models of its rounds are kept."""
        request = federated_pb2.StopRunRequest(name=federated_run_name(name, field="run"))
        run: federated_pb2.Run = self._stub.StopRun(request).run
        return run

    def wait(self, name: str) -> federated_pb2.Run:
        """Waits until the run has succeeded.

        Raises:
            MeshError: The run FAILED. The exception has the class, reason, message and field of the run's error.
            Cancelled: JOB_CANCELLED if the run was stopped.
        """
        run = self.run(name)
        try:
            jobs.wait(self._connection.channel("federated"), run.job)
        except Cancelled as error:
            if error.reason != "JOB_CANCELLED":
                raise
            raise Cancelled("JOB_CANCELLED", f"{run.name} was stopped") from error
        return self.run(name)

    def model(self, name: str, *, round: int = 0) -> federated_pb2.GetModelResponse:
        """Returns the model that a round of a run has released.

        Args:
            name: Name of the run.
            round: Number of the round; 0 means the newest released round.

        Raises:
            FailedPrecondition: ROUND_NOT_RELEASED.
        """
        request = federated_pb2.GetModelRequest(name=federated_run_name(name, field="run"), round=round)
        response: federated_pb2.GetModelResponse = self._stub.GetModel(request)
        return response
