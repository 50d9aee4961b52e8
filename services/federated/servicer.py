"""Exposes federations and runs as the gRPC service FederatedService, with conversions from and to protobuf."""

from collections.abc import Iterator
from itertools import accumulate

import grpc

from common.artifacts.proto import to_proto
from common.database import PageRequest
from common.proto import repeatable
from common.server import caller
from common.watches import Watches
from protos.federated.v1 import federated_pb2 as pb
from protos.federated.v1 import federated_pb2_grpc
from services.federated.codec import (
    event_to_proto,
    federation_to_proto,
    node_to_proto,
    read_spec,
    round_to_proto,
    run_to_proto,
)
from services.federated.federation import Node
from services.federated.federations import FederationService
from services.federated.joining import JoinService, NodeFiles
from services.federated.run import FederatedRun
from services.federated.run_service import RunService

_MAX_PAGE_BYTES = 16 << 20
"""Size of a page of runs above which the page ends early, so that it fits in a message."""


class FederatedServicer(federated_pb2_grpc.FederatedServiceServicer):
    """Implements FederatedService; the proto documents every RPC.

    Args:
        federations: Service that executes the requests about federations and nodes.
        joining: Service that describes how nodes join.
        runs: Service that executes the requests about runs.
    """

    def __init__(self, federations: FederationService, joining: JoinService, runs: RunService) -> None:
        self._federations = federations
        self._joining = joining
        self._runs = runs
        self._watches = Watches()

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE. Otherwise, open watches would keep the server from stopping."""
        self._watches.close()

    def CreateFederation(
        self, request: pb.CreateFederationRequest, context: grpc.ServicerContext
    ) -> pb.CreateFederationResponse:
        call = repeatable("CreateFederation", request, request.request_id)
        made = self._federations.create(caller(context).tenant, request.federation_id, request.description, call)
        return pb.CreateFederationResponse(federation=federation_to_proto(made))

    def GetFederation(
        self, request: pb.GetFederationRequest, context: grpc.ServicerContext
    ) -> pb.GetFederationResponse:
        found = self._federations.get(caller(context).tenant, request.name)
        return pb.GetFederationResponse(federation=federation_to_proto(found))

    def ListFederations(
        self, request: pb.ListFederationsRequest, context: grpc.ServicerContext
    ) -> pb.ListFederationsResponse:
        page = PageRequest(request.page_size, request.page_token)
        found, token = self._federations.list(caller(context).tenant, page)
        return pb.ListFederationsResponse(federations=map(federation_to_proto, found), next_page_token=token)

    def DeleteFederation(
        self, request: pb.DeleteFederationRequest, context: grpc.ServicerContext
    ) -> pb.DeleteFederationResponse:
        self._federations.delete(caller(context).tenant, request.name)
        return pb.DeleteFederationResponse()

    def RegisterNode(self, request: pb.RegisterNodeRequest, context: grpc.ServicerContext) -> pb.RegisterNodeResponse:
        call = repeatable("RegisterNode", request, request.request_id)
        node = self._federations.register(
            caller(context).tenant, request.parent, request.node_id, request.public_key, call
        )
        return pb.RegisterNodeResponse(node=self._node(node))

    def ListNodes(self, request: pb.ListNodesRequest, context: grpc.ServicerContext) -> pb.ListNodesResponse:
        page = PageRequest(request.page_size, request.page_token)
        nodes, token = self._federations.list_nodes(caller(context).tenant, request.parent, page)
        online = self._federations.online() if nodes else set()
        found = [node_to_proto(node, online=node.fingerprint in online) for node in nodes]
        return pb.ListNodesResponse(nodes=found, next_page_token=token)

    def RemoveNode(self, request: pb.RemoveNodeRequest, context: grpc.ServicerContext) -> pb.RemoveNodeResponse:
        self._federations.remove(caller(context).tenant, request.name)
        return pb.RemoveNodeResponse()

    def GetJoinInstructions(
        self, request: pb.GetJoinInstructionsRequest, context: grpc.ServicerContext
    ) -> pb.GetJoinInstructionsResponse:
        files = NodeFiles(
            request.data,
            request.private_key_file,
            request.root_certificate_file,
            request.work_folder,
            request.port,
        )
        found = self._joining.instructions(caller(context).tenant, request.name, files)
        return pb.GetJoinInstructionsResponse(
            superlink_address=found.superlink_address,
            root_certificate=found.root_certificate,
            command=found.command,
            environment=[f"{name}={value}" for name, value in found.environment.items()],
        )

    def StartRun(self, request: pb.StartRunRequest, context: grpc.ServicerContext) -> pb.StartRunResponse:
        run = self._runs.start(
            caller(context).tenant,
            request.parent,
            read_spec(request.spec),
            repeatable("StartRun", request, request.request_id),
        )
        return pb.StartRunResponse(run=self._run(run))

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=self._run(self._runs.get(caller(context).tenant, request.name)))

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        tenant, active_only = caller(context).tenant, request.active_only
        page = PageRequest(request.page_size, request.page_token)
        runs, token = self._runs.list(tenant, request.parent, page, active_only=active_only)
        found = [self._run(run) for run in runs]
        num_runs = max(1, sum(size <= _MAX_PAGE_BYTES for size in accumulate(run.ByteSize() for run in found)))
        if num_runs < len(found):
            page = PageRequest(num_runs, request.page_token)
            runs, token = self._runs.list(tenant, request.parent, page, active_only=active_only)
            found = [self._run(run) for run in runs]
        return pb.ListRunsResponse(runs=found, next_page_token=token)

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        tenant = caller(context).tenant
        with self._watches.open(context) as stop:
            for event in self._runs.watch(
                tenant, request.name, after=request.after_sequence, stop=stop, stored_only=request.stored_only
            ):
                yield pb.WatchRunResponse(event=event_to_proto(event))
            self._watches.check(stop)

    def StopRun(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.StopRunResponse:
        return pb.StopRunResponse(run=self._run(self._runs.stop(caller(context).tenant, request.name)))

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        values, arrays = self._runs.model(caller(context).tenant, request.name, request.round)
        return pb.GetModelResponse(
            round=round_to_proto(values), model_version=values["model_version"], arrays=to_proto(arrays)
        )

    def _node(self, node: Node) -> pb.Node:
        return node_to_proto(node, online=node.fingerprint in self._federations.online())

    def _run(self, run: FederatedRun) -> pb.Run:
        return run_to_proto(run, self._runs.last_round(run))
