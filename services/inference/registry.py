"""The registry as the repository sees it, asked over gRPC."""

import grpc

from common.auth import on_behalf_of
from common.errors import InvalidArgument, NotFound
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from services.inference.repository import LATEST, Published, PublishedVersion

_PAGE_SIZE = 1000


class RegistryClient(Published):
    """Asks RegistryService.

    Args:
        channel: From `common.channel.open_channel`; borrowed, not closed.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def version(self, tenant: str, model_id: str, reference: str) -> PublishedVersion:
        parent = f"models/{model_id}"
        is_version = reference == LATEST or reference.isdigit()
        name = f"{parent}/{'versions' if is_version else 'aliases'}/{reference}"
        try:
            request = pb.GetModelVersionRequest(name=name)
            found = self._stub.GetModelVersion(request, metadata=on_behalf_of(tenant)).model_version
        except (InvalidArgument, NotFound) as error:
            field = "model_name" if error.reason == "MODEL_NOT_FOUND" else "parameters[version]"
            raise type(error)(error.reason, error.message, field=field) from error
        return PublishedVersion(model_id, int(found.name.rpartition("/")[2]), found.manifest.sha256)

    def model_ids(self, tenant: str) -> list[str]:
        model_ids: list[str] = []
        token = ""
        while True:
            request = pb.ListModelsRequest(page_size=_PAGE_SIZE, page_token=token)
            page = self._stub.ListModels(request, metadata=on_behalf_of(tenant))
            model_ids.extend(model.name.partition("/")[2] for model in page.models)
            token = page.next_page_token
            if not token:
                return model_ids
