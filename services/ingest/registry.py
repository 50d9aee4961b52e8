"""The registry, asked over gRPC."""

import grpc

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.auth import on_behalf_of
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from services.ingest.versions import DatasetVersion


class Registry:
    """Implements `DatasetVersions`.

    Args:
        channel: Channel to the registry, as `common.channel.open_channel` makes it; the caller closes it.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def register(self, dataset: str, manifest: Artifact, num_samples: int, request_id: str) -> str:
        """See `DatasetVersions.register`."""
        response = self._stub.CreateDatasetVersion(
            registry_pb2.CreateDatasetVersionRequest(
                parent=dataset, manifest=to_proto(manifest), num_samples=num_samples, request_id=request_id
            ),
            metadata=on_behalf_of(manifest.tenant),
        )
        return str(response.dataset_version.name)

    def find(self, tenant: str, name: str) -> DatasetVersion:
        """See `DatasetVersions.find`."""
        request = registry_pb2.GetDatasetVersionRequest(name=name)
        response = self._stub.GetDatasetVersion(request, metadata=on_behalf_of(tenant))
        return DatasetVersion(response.dataset_version.name, response.dataset_version.manifest.sha256)
