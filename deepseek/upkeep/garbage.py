"""Garbage collection: deletes blobs that are unreachable and older than a grace period.

The grace period protects work in progress, because a blob is stored before any service references it. Storing a blob
again resets its age. The store checks a blob's age once more right before the deletion, so a blob that is stored during
a collection is kept. Every deletion is announced to the registry in advance and confirmed afterwards
(`common.upkeep.records`). The registry's audit log records who ran the collection.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from common.artifacts.blob import BlobInfo
from common.errors import InvalidArgument, MeshError
from common.upkeep.records import MAX_DIGESTS
from deepseek.client import Mesh
from deepseek.upkeep.reachable import reach, references, with_service_name
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

_RECORDER = "registry"


@dataclass(frozen=True)
class BlobTotals:
    """A number of blobs and their total size."""

    num_blobs: int = 0
    num_bytes: int = 0

    def plus(self, stored: BlobInfo) -> "BlobTotals":
        """Returns these totals increased by one blob."""
        return BlobTotals(self.num_blobs + 1, self.num_bytes + stored.size_bytes)

    @classmethod
    def of(cls, blobs: Iterable[BlobInfo]) -> "BlobTotals":
        """Returns the number and total size of the given blobs."""
        sizes = [stored.size_bytes for stored in blobs]
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class TenantGarbage:
    """Which of a tenant's blobs a collection keeps, and which it removes.

    Attributes:
        tenant: The tenant.
        reachable: Blobs that are kept because they are reachable.
        young: Unreachable blobs that are kept because they are younger than the grace period.
        removed: Blobs that were deleted or, in a dry run, would be deleted.
    """

    tenant: str
    reachable: BlobTotals
    young: BlobTotals
    removed: BlobTotals


@dataclass(frozen=True)
class Collection:
    """Result of a collection.

    Attributes:
        tenants: Totals of kept and removed blobs, one entry per tenant.
        lost: Digests, by tenant, of missing manifests that services reference.
        unreadable: Digests, by tenant, of manifests that this release cannot read. If a tenant has such a manifest, all
            blobs of that tenant are kept.
    """

    tenants: tuple[TenantGarbage, ...]
    lost: Mapping[str, set[str]]
    unreadable: Mapping[str, set[str]]


def collect(
    mesh: Mesh, *, grace_s: float, dry_run: bool = False, on_blob: Callable[[int, int], None] = lambda done, total: None
) -> Collection:
    """Deletes the garbage of all tenants, i.e. unreachable blobs that are older than the grace period.

    Args:
        mesh: Mesh whose services are all available.
        grace_s: Grace period, in seconds. A blob that was stored at most `grace_s` seconds ago is kept.
        dry_run: Whether to report the garbage without deleting it.
        on_blob: Called with the number of garbage blobs processed so far and the total number of garbage blobs.

    Raises:
        MeshError: A service or the store failed, or a manifest is damaged. Nothing has been deleted, unless the store
            or the registry failed after the deletions had begun.
    """
    if grace_s < 0:
        raise InvalidArgument("BAD_VALUE", f"the grace period is {grace_s:g} s; it must be 0 or more", field="grace")
    limit_us = time.time_ns() // 1000 - round(grace_s * 1_000_000)
    store = mesh.store
    reached = reach(store, references(mesh))
    unreachable: dict[str, list[BlobInfo]] = {}
    reachable: dict[str, BlobTotals] = {}
    for tenant in store.tenants():
        reachable[tenant], unreachable[tenant] = BlobTotals(), []
        for stored in store.entries(tenant):
            if stored.sha256 in reached.blobs.get(tenant, ()):
                reachable[tenant] = reachable[tenant].plus(stored)
            else:
                unreachable[tenant].append(stored)
    old = {tenant: [one for one in found if one.stored_us < limit_us] for tenant, found in unreachable.items()}
    total, done = sum(map(len, old.values())), 0
    tenants = []
    for tenant, found in unreachable.items():
        removed: set[BlobInfo] = set()
        for start in range(0, len(old[tenant]), MAX_DIGESTS):
            batch = old[tenant][start : start + MAX_DIGESTS]
            with nullcontext(set[BlobInfo]()) if dry_run else _recorded_deletion(mesh, tenant, batch) as gone:
                for stored in batch:
                    if dry_run or store.expire(tenant, stored.sha256, limit_us):
                        gone.add(stored)
                    done += 1
                    on_blob(done, total)
            removed |= gone
        young = BlobTotals.of(set(found) - removed)
        tenants.append(TenantGarbage(tenant, reachable[tenant], young, BlobTotals.of(removed)))
    return Collection(tuple(tenants), reached.lost, reached.unreadable)


@contextmanager
def _recorded_deletion(mesh: Mesh, tenant: str, batch: Sequence[BlobInfo]) -> Iterator[set[BlobInfo]]:
    """Records the deletion of a batch of blobs in the registry.

    Announces the batch and yields an empty set. The `with` block must add each blob that it deletes to this set. When
    the block ends, even with an error, the set is reported to the registry.
    """
    recorder = upkeep_pb2_grpc.UpkeepServiceStub(mesh.channel(_RECORDER))
    begin = upkeep_pb2.BeginCollectionRequest(parent=f"tenants/{tenant}", **_request_fields(batch))
    with _errors_name_recorder():
        name = recorder.BeginCollection(begin).name
    gone = set[BlobInfo]()
    try:
        yield gone
    finally:
        with _errors_name_recorder():
            recorder.EndCollection(upkeep_pb2.EndCollectionRequest(parent=name, **_request_fields(gone)))


def _request_fields(blobs: Sequence[BlobInfo] | set[BlobInfo]) -> dict[str, Any]:
    return {"digests": [one.sha256 for one in blobs], "num_bytes": BlobTotals.of(blobs).num_bytes}


@contextmanager
def _errors_name_recorder() -> Iterator[None]:
    try:
        yield
    except MeshError as error:
        raise with_service_name(error, _RECORDER) from error
