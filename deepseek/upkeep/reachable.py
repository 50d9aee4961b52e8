"""Finds reachable artifacts: those that services reference, and those listed in referenced manifests.

Services are queried one after another, and a reference may move from one service to another in the meantime. For
example, a commit moves references to an upload's shards into a data set version, and an export moves references to the
exported files into a model version. References move only towards the registry, and the registry stores a reference
before the source service drops it. So the registry is queried last: a reference that moves in the meantime is then
found at the source service, at the registry, or at both.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.artifacts import ArtifactStore
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.client import Mesh
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.data.manifest import DatasetManifest
from deepseek.models.manifest import MEDIA_TYPE as MODEL_MEDIA_TYPE
from deepseek.models.manifest import ModelManifest
from deepseek.services import SERVICES
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

REFERENCE_ORDER = tuple(reversed(SERVICES))
"""Services to query after all others, in this order. A service comes before the services that it calls."""

STREAM_TIMEOUT_S = 600
"""Timeout of a call that streams state or references, in seconds."""


@dataclass(frozen=True)
class Reachable:
    """Blobs that a set of references reaches directly or through manifests.

    Attributes:
        blobs: Digests of the reachable blobs, by tenant. Lost manifests are not included.
        lost: Digests, by tenant, of manifests that are missing from the store or treated as lost.
        unreadable: Digests, by tenant, of manifests that this release cannot read.
    """

    blobs: Mapping[str, set[str]]
    lost: Mapping[str, set[str]] = field(default_factory=dict)
    unreadable: Mapping[str, set[str]] = field(default_factory=dict)


def services_in_order(mesh: Mesh) -> list[str]:
    """Returns the services in the order in which to query them: those in `REFERENCE_ORDER` come last, in that order."""
    return [*(name for name in mesh.services if name not in REFERENCE_ORDER), *REFERENCE_ORDER]


def upkeep_stub(mesh: Mesh, service: str) -> upkeep_pb2_grpc.UpkeepServiceStub:
    """Makes a first call to a service's UpkeepService, and returns a stub for it once that call has succeeded.

    Raises:
        FailedPrecondition: SERVICE_NOT_IN_MESH if the mesh has no such service.
        MeshError: The service does not respond; the message names the service.
    """
    stub = upkeep_pb2_grpc.UpkeepServiceStub(mesh.channel(service))
    try:
        # A successful call shows that the connection works. A stream opened on a dying connection may wait forever,
        # because gRPC's retries lose the end of the stream (grpcio 1.85).
        stub.GetState(upkeep_pb2.GetStateRequest())
    except MeshError as error:
        raise with_service_name(error, service) from error
    return stub


def references(mesh: Mesh) -> list[upkeep_pb2.Reference]:
    """Returns the references held by all services.

    Raises:
        MeshError: A service does not respond; the message names the service.
    """
    found: list[upkeep_pb2.Reference] = []
    for service in services_in_order(mesh):
        stub = upkeep_stub(mesh, service)
        try:
            for answer in stub.ListReferences(upkeep_pb2.ListReferencesRequest(), timeout=STREAM_TIMEOUT_S):
                found += answer.references
        except MeshError as error:
            raise with_service_name(error, service) from error
    return found


def with_service_name(error: MeshError, service: str) -> MeshError:
    """Returns a copy of the error whose message starts with the name of the service."""
    return type(error)(error.reason, f"{service}: {error.message}", retry_delay_s=error.retry_delay_s)


def reach(store: ArtifactStore, found: Iterable[upkeep_pb2.Reference], *, damaged_is_lost: bool = False) -> Reachable:
    """Returns the blobs that references reach directly or through manifests.

    A manifest that this release cannot read might list any blob of its tenant, so all blobs of that tenant count as
    reachable. Other tenants are not affected.

    Args:
        store: Store that contains the manifests.
        found: The references to follow.
        damaged_is_lost: Whether to treat a damaged manifest as lost.

    Raises:
        DataLoss: BLOB_DAMAGED if a manifest is damaged and `damaged_is_lost` is False. Until an intact copy of the
            manifest is stored, it is unknown which blobs the manifest lists.
    """
    blobs: dict[str, set[str]] = defaultdict(set)
    lost: dict[str, set[str]] = defaultdict(set)
    unreadable: dict[str, set[str]] = defaultdict(set)
    for tenant, sha256, media_type in sorted({(one.tenant, one.sha256, one.media_type) for one in found}):
        try:
            blobs[tenant] |= {sha256, *_listed_digests(store, tenant, sha256, media_type)}
        except NotFound:
            lost[tenant].add(sha256)
        except (InvalidArgument, FailedPrecondition) as error:
            if error.reason not in ("BAD_MANIFEST", "UNKNOWN_MANIFEST"):
                raise
            unreadable[tenant].add(sha256)
            blobs[tenant].update(store.list(tenant))
        except DataLoss:
            if not damaged_is_lost:
                raise
            lost[tenant].add(sha256)
    return Reachable(blobs, lost, unreadable)


def _listed_digests(store: ArtifactStore, tenant: str, sha256: str, media_type: str) -> list[str]:
    """Returns the digests that a manifest lists; empty for other artifacts. Manifests never list other manifests."""
    if media_type == DATASET_MEDIA_TYPE:
        manifest = DatasetManifest.from_bytes(store.read(tenant, sha256))
        return [shard.sha256 for shards in (*manifest.splits.values(), manifest.quarantine) for shard in shards]
    if media_type == MODEL_MEDIA_TYPE:
        return [file.sha256 for file in ModelManifest.from_bytes(store.read(tenant, sha256)).files]
    if media_type.startswith("application/vnd.deepseek.") and media_type.endswith("+json"):
        message = (
            f"the manifest {sha256} of tenant {tenant} has the unknown media type {media_type}; update this client"
        )
        raise FailedPrecondition("UNKNOWN_MANIFEST", message)
    return []
