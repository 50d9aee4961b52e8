"""The registry as the trainer sees it: data set versions in, model versions out. A thin client, no state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.artifacts import Artifact
from common.artifacts.proto import from_proto, to_proto
from common.auth import on_behalf_of
from common.channel import open_channel
from common.errors import InvalidArgument, NotFound
from protos.registry.v1 import registry_pb2, registry_pb2_grpc


@dataclass(frozen=True)
class DatasetVersion:
    """A resolved data set version: `name` never contains an alias."""

    name: str
    manifest: Artifact


class Registry:
    """Thread-safe; `close` ends the connection.

    Args:
        address: Where the registry answers.
        identity: Who we are, as `open_channel` takes it.
        deadline_s: Seconds a call may take.
    """

    def __init__(self, address: str, *, identity: Path | None, deadline_s: float) -> None:
        self._channel = open_channel(address, identity=identity, deadline_s=deadline_s)
        self._stub = registry_pb2_grpc.RegistryServiceStub(self._channel)

    def dataset_version(self, name: str, tenant: str, *, field: str) -> DatasetVersion:
        """Resolves a version or alias.

        Raises:
            NotFound: DATASET_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable: The registry does not answer.
        """
        try:
            request = registry_pb2.GetDatasetVersionRequest(name=name)
            answer = self._stub.GetDatasetVersion(request, metadata=on_behalf_of(tenant))
        except NotFound as error:
            raise NotFound("DATASET_VERSION_NOT_FOUND", error.message, field=field) from error
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field=field) from error
        version = answer.dataset_version
        return DatasetVersion(version.name, from_proto(version.manifest, tenant=tenant))

    def create_model_version(
        self,
        model: str,
        manifest: Artifact,
        *,
        sources: Sequence[str],
        metrics: Mapping[str, float],
        request_id: str,
    ) -> str:
        """Registers a model version, or finds the one that has this manifest; repeating a call does nothing more.

        Returns:
            Its name.

        Raises:
            Unavailable, DeadlineExceeded: It did not answer; the version may have been added or not.
            MeshError: It refused.
        """
        request = registry_pb2.CreateModelVersionRequest(
            parent=model,
            manifest=to_proto(manifest),
            sources=sources,
            metrics=[registry_pb2.Metric(name=name, value=value) for name, value in metrics.items()],
            request_id=request_id,
        )
        response = self._stub.CreateModelVersion(request, metadata=on_behalf_of(manifest.tenant))
        name: str = response.model_version.name
        return name

    def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._channel.close()
