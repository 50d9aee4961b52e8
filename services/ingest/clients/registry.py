"""gRPC client for the registry."""

from collections.abc import Sequence

import grpc

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.auth.identity import on_behalf_of
from common.errors import InvalidArgument
from common.remote import relabelled
from common.sources import check_resource
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

    def check_source(self, tenant: str, name: str, *, field: str) -> None:
        """See `Registry.check_source`."""
        metadata = on_behalf_of(tenant)
        with relabelled(field):
            match name.partition("/")[0]:
                case "datasets":
                    data = registry_pb2.GetDatasetVersionRequest(name=name)
                    found = self._stub.GetDatasetVersion(data, metadata=metadata).dataset_version.name
                case "models":
                    model = registry_pb2.GetModelVersionRequest(name=name)
                    found = self._stub.GetModelVersion(model, metadata=metadata).model_version.name
                case _:
                    check_resource(name, field=field)
                    return
        if found != name:
            message = f"{name!r} may refer to another version later; name the version by its number: {found!r}"
            raise InvalidArgument("BAD_NAME", message, field=field)
