"""gRPC client for the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import grpc

from common.artifacts import Artifact
from common.artifacts.proto import from_proto, to_proto
from common.auth.identity import on_behalf_of
from common.errors import NotFound
from common.remote import relabelled
from deepseek.privacy.ancestry import unprotected_ancestor
from deepseek.privacy.messages import guarantee_to_proto
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from services.trainer.ports import DatasetVersion, Guarantee, ModelVersion

_MAX_DEPTH = 100


class RegistryClient:
    """Implements `ports.Registry`.

    Args:
        channel: Channel from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def find_dataset_version(self, tenant: str, name: str, *, field: str) -> DatasetVersion:
        """See `Registry.find_dataset_version`."""
        request = registry_pb2.GetDatasetVersionRequest(name=name)
        with relabelled(field, not_found="DATASET_VERSION_NOT_FOUND"):
            version = self._stub.GetDatasetVersion(request, metadata=on_behalf_of(tenant)).dataset_version
        return DatasetVersion(version.name, from_proto(version.manifest, tenant=tenant))

    def find_model_version(self, tenant: str, name: str, *, field: str) -> ModelVersion:
        """See `Registry.find_model_version`."""
        request = registry_pb2.GetModelVersionRequest(name=name)
        with relabelled(field, not_found="MODEL_VERSION_NOT_FOUND"):
            version = self._stub.GetModelVersion(request, metadata=on_behalf_of(tenant)).model_version
        return ModelVersion(version.name, from_proto(version.manifest, tenant=tenant))

    def unprotected_ancestor(self, tenant: str, name: str, *, dataset: str, budget: str) -> str:
        """See `Registry.unprotected_ancestor`."""
        request = registry_pb2.GetLineageRequest(name=name, depth=_MAX_DEPTH)
        lineage = self._stub.GetLineage(request, metadata=on_behalf_of(tenant))
        return unprotected_ancestor(
            [(edge.source, edge.target) for edge in lineage.edges],
            {one.version: one.privacy.debit for one in lineage.guarantees},
            start=name,
            dataset=dataset,
            budget=budget,
        )

    def version_made_from(self, tenant: str, name: str) -> str:
        """See `Registry.version_made_from`."""
        request = registry_pb2.GetLineageRequest(name=name, depth=1)
        try:
            edges = self._stub.GetLineage(request, metadata=on_behalf_of(tenant)).edges
        except NotFound:  # no version names it
            return ""
        return next((str(edge.target) for edge in edges if edge.source == name), "")

    def register_model_version(
        self,
        model: str,
        manifest: Artifact,
        *,
        sources: Sequence[str],
        metrics: Mapping[str, float],
        request_id: str,
        guarantee: Guarantee | None = None,
    ) -> str:
        """See `Registry.register_model_version`."""
        request = registry_pb2.CreateModelVersionRequest(
            parent=model,
            manifest=to_proto(manifest),
            sources=sources,
            metrics=[registry_pb2.Metric(name=name, value=value) for name, value in metrics.items()],
            request_id=request_id,
            privacy=guarantee_to_proto(unit="example", **asdict(guarantee)) if guarantee else None,
        )
        response = self._stub.CreateModelVersion(request, metadata=on_behalf_of(manifest.tenant))
        return str(response.model_version.name)
