"""What is reachable: the artifacts that services refer to, and those that manifests among them list.

Services are asked one after another, and meanwhile references move: a commit takes an upload's shards to a version, an
export's files become a model. They only ever move towards the registry, and are there before they leave where they
were. So the registry is asked last, and what was on its way is seen at one end or at both.
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
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

REFERRING = ("ingest", "trainer", "inference", "registry")
"""Services that every mesh has, in the order in which they are asked."""

ANSWER_S = 600
"""Seconds within which a service has sent what it was asked for."""


@dataclass(frozen=True)
class Reachable:
    """What a set of references reaches.

    Attributes:
        blobs: Digests by tenant, without those that are lost.
        lost: Manifests that are referred to and not in the store.
        unreadable: What is referred to as a manifest and is none that this release knows.
    """

    blobs: Mapping[str, set[str]]
    lost: Mapping[str, set[str]] = field(default_factory=dict)
    unreadable: Mapping[str, set[str]] = field(default_factory=dict)


def services(mesh: Mesh) -> list[str]:
    """The services to ask, in order: further ones that the mesh has, then those that every mesh has."""
    return [*(name for name in mesh.services if name not in REFERRING), *REFERRING]


def upkeep(mesh: Mesh, service: str) -> upkeep_pb2_grpc.UpkeepServiceStub:
    """A service's UpkeepService, which has just answered.

    Raises:
        FailedPrecondition: SERVICE_NOT_IN_MESH.
        MeshError: It does not answer; the message names it.
    """
    stub = upkeep_pb2_grpc.UpkeepServiceStub(mesh.channel(service))
    try:
        # A stream that begins on a dying connection may wait for ever: gRPC's retries lose its end (grpcio 1.85).
        stub.GetState(upkeep_pb2.GetStateRequest())
    except MeshError as error:
        raise named(error, service) from error
    return stub


def references(mesh: Mesh) -> list[upkeep_pb2.Reference]:
    """Asks every service what it refers to.

    Raises:
        MeshError: As the first service that does not answer; the message names it.
    """
    found: list[upkeep_pb2.Reference] = []
    for service in services(mesh):
        stub = upkeep(mesh, service)
        try:
            for answer in stub.ListReferences(upkeep_pb2.ListReferencesRequest(), timeout=ANSWER_S):
                found += answer.references
        except MeshError as error:
            raise named(error, service) from error
    return found


def named(error: MeshError, service: str) -> MeshError:
    """The same error, whose message names the service."""
    return type(error)(error.reason, f"{service}: {error.message}", retry_delay_s=error.retry_delay_s)


def reach(store: ArtifactStore, found: Iterable[upkeep_pb2.Reference], *, pass_over_damaged: bool = False) -> Reachable:
    """Follows references through the manifests among them.

    What is kept as a manifest and is none, or one of a newer release, may list anything: then all that its tenant has
    is reached, so that nobody who names nonsense a manifest holds up the upkeep of others.

    Args:
        store: Where the manifests are.
        found: The references to begin with.
        pass_over_damaged: Treat a manifest that is damaged as one that is lost.

    Raises:
        DataLoss: BLOB_DAMAGED: what a damaged manifest lists cannot be told, though somebody may put it again.
    """
    blobs: dict[str, set[str]] = defaultdict(set)
    lost: dict[str, set[str]] = defaultdict(set)
    unreadable: dict[str, set[str]] = defaultdict(set)
    for tenant, sha256, media_type in sorted({(one.tenant, one.sha256, one.media_type) for one in found}):
        try:
            blobs[tenant] |= {sha256, *_listed(store, tenant, sha256, media_type)}
        except NotFound:
            lost[tenant].add(sha256)
        except (InvalidArgument, FailedPrecondition) as error:
            if error.reason not in ("BAD_MANIFEST", "UNKNOWN_MANIFEST"):
                raise
            unreadable[tenant].add(sha256)
            blobs[tenant].update(store.list(tenant))
        except DataLoss:
            if not pass_over_damaged:
                raise
            lost[tenant].add(sha256)
    return Reachable(blobs, lost, unreadable)


def _listed(store: ArtifactStore, tenant: str, sha256: str, media_type: str) -> list[str]:
    """What a manifest lists; none of that is a manifest itself. Nothing for other artifacts."""
    if media_type == DATASET_MEDIA_TYPE:
        splits = DatasetManifest.from_bytes(store.read(tenant, sha256)).splits
        return [shard.sha256 for shards in splits.values() for shard in shards]
    if media_type == MODEL_MEDIA_TYPE:
        return [file.sha256 for file in ModelManifest.from_bytes(store.read(tenant, sha256)).files]
    if media_type.startswith("application/vnd.deepseek.") and media_type.endswith("+json"):
        message = f"tenant {tenant} has a manifest {sha256} of the kind {media_type}, which is not known; update"
        raise FailedPrecondition("UNKNOWN_MANIFEST", message)
    return []
