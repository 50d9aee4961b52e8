"""gRPC client for the registry."""

from collections.abc import Sequence

import grpc

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.auth.identity import on_behalf_of
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from services.ingest.ports import DatasetVersion


class RegistryClient:
    """Implements `ports.Registry`.

    Args:
        channel: Channel from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def register_dataset_version(
        self, dataset: str, manifest: Artifact, num_samples: int, sources: Sequence[str], request_id: str
    ) -> str:
        """See `Registry.register_dataset_version`."""
        request = registry_pb2.CreateDatasetVersionRequest(
            parent=dataset,
            manifest=to_proto(manifest),
            num_samples=num_samples,
            sources=sources,
            request_id=request_id,
        )
        response = self._stub.CreateDatasetVersion(request, metadata=on_behalf_of(manifest.tenant))
        return str(response.dataset_version.name)

    def find_dataset_version(self, tenant: str, name: str) -> DatasetVersion:
        """See `Registry.find_dataset_version`."""
        request = registry_pb2.GetDatasetVersionRequest(name=name)
        version = self._stub.GetDatasetVersion(request, metadata=on_behalf_of(tenant)).dataset_version
        return DatasetVersion(version.name, version.manifest.sha256)
