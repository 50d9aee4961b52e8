"""gRPC client for the registry."""

import grpc

from common.auth.identity import on_behalf_of
from common.remote import relabelled
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from services.inference.ports import LATEST, PublishedVersion

_PAGE_SIZE = 1000


class RegistryClient:
    """Implements `ports.Registry`.

    Args:
        channel: Channel from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def find_model_version(self, tenant: str, model_id: str, reference: str) -> PublishedVersion:
        """See `Registry.find_model_version`."""
        collection = "versions" if reference == LATEST or reference.isdigit() else "aliases"
        request = registry_pb2.GetModelVersionRequest(name=f"models/{model_id}/{collection}/{reference}")
        with relabelled("parameters[version]", field_of_reason={"MODEL_NOT_FOUND": "model_name"}):
            found = self._stub.GetModelVersion(request, metadata=on_behalf_of(tenant)).model_version
        return PublishedVersion(model_id, int(found.name.rpartition("/")[2]), found.manifest.sha256)

    def list_model_ids(self, tenant: str) -> list[str]:
        """See `Registry.list_model_ids`."""
        model_ids: list[str] = []
        token = ""
        while True:
            request = registry_pb2.ListModelsRequest(page_size=_PAGE_SIZE, page_token=token)
            page = self._stub.ListModels(request, metadata=on_behalf_of(tenant))
            model_ids.extend(model.name.partition("/")[2] for model in page.models)
            token = page.next_page_token
            if not token:
                return model_ids
