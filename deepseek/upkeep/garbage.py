"""Garbage: blobs that nothing reaches and that nobody has put for a while.

The while, the grace period, is what keeps work under way safe: bytes are put first and referred to later. A put makes
the age of what it finds stored new, and the store looks at the age again in the moment of deletion, so what somebody
puts while the garbage is being collected stays.

Nothing goes that is not on record: what is about to go is announced to the registry, whose audit log tells by whom, and
what has gone is told it afterwards (`common.upkeep.records`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from common.artifacts.store import Stored
from common.errors import InvalidArgument, MeshError
from common.upkeep.records import MAX_DIGESTS
from deepseek.client import Mesh
from deepseek.upkeep.reachable import named, reach, references
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc

_RECORDER = "registry"


@dataclass(frozen=True)
class Amount:
    """So many blobs, of so many bytes together."""

    num_blobs: int = 0
    num_bytes: int = 0

    def plus(self, stored: Stored) -> "Amount":
        """With one blob more."""
        return Amount(self.num_blobs + 1, self.num_bytes + stored.size_bytes)

    @classmethod
    def of(cls, blobs: Iterable[Stored]) -> "Amount":
        """What these are together."""
        sizes = [stored.size_bytes for stored in blobs]
        return cls(len(sizes), sum(sizes))


@dataclass(frozen=True)
class TenantGarbage:
    """What was found of one tenant.

    Attributes:
        tenant: The tenant.
        reachable: What stays because something reaches it.
        young: What nothing reaches, and stays for now.
        removed: What has gone or, in a dry run, would go.
    """

    tenant: str
    reachable: Amount
    young: Amount
    removed: Amount


@dataclass(frozen=True)
class Collection:
    """What a collection found and did.

    Attributes:
        tenants: Of each tenant.
        lost: Digests by tenant that services refer to and the store does not have whole.
        unreadable: Digests by tenant of what is kept as a manifest and is none; everything of these tenants stays.
    """

    tenants: tuple[TenantGarbage, ...]
    lost: Mapping[str, set[str]]
    unreadable: Mapping[str, set[str]]


def collect(
    mesh: Mesh, *, grace_s: float, dry_run: bool = False, on_blob: Callable[[int, int], None] = lambda done, total: None
) -> Collection:
    """Deletes the garbage of all tenants.

    Args:
        mesh: The mesh; all its services have to answer.
        grace_s: Seconds for which a blob is kept after it was last put.
        dry_run: Delete nothing.
        on_blob: Called with how many old blobs that nothing reaches have been dealt with, and of how many.

    Raises:
        MeshError: A service or the store did not answer, or a manifest could not be read; nothing was deleted unless
            it is the store or the registry that failed in the middle.
    """
    if grace_s < 0:
        raise InvalidArgument("BAD_VALUE", "a grace period is not negative", field="grace")
    limit_us = time.time_ns() // 1000 - round(grace_s * 1_000_000)
    store = mesh.store
    reached = reach(store, references(mesh))
    unreachable: dict[str, list[Stored]] = {}
    reachable: dict[str, Amount] = {}
    for tenant in store.tenants():
        reachable[tenant], unreachable[tenant] = Amount(), []
        for stored in store.entries(tenant):
            if stored.sha256 in reached.blobs.get(tenant, ()):
                reachable[tenant] = reachable[tenant].plus(stored)
            else:
                unreachable[tenant].append(stored)
    old = {tenant: [one for one in found if one.put_us < limit_us] for tenant, found in unreachable.items()}
    total, done = sum(map(len, old.values())), 0
    tenants = []
    for tenant, found in unreachable.items():
        removed: set[Stored] = set()
        for start in range(0, len(old[tenant]), MAX_DIGESTS):
            batch = old[tenant][start : start + MAX_DIGESTS]
            with nullcontext(set[Stored]()) if dry_run else _on_record(mesh, tenant, batch) as gone:
                for stored in batch:
                    if dry_run or store.expire(tenant, stored.sha256, limit_us):
                        gone.add(stored)
                    done += 1
                    on_blob(done, total)
            removed |= gone
        young = Amount.of(set(found) - removed)
        tenants.append(TenantGarbage(tenant, reachable[tenant], young, Amount.of(removed)))
    return Collection(tuple(tenants), reached.lost, reached.unreadable)


@contextmanager
def _on_record(mesh: Mesh, tenant: str, batch: Sequence[Stored]) -> Iterator[set[Stored]]:
    """Announces a batch of blobs, and tells in the end, however that comes, which of them were put into the set."""
    recorder = upkeep_pb2_grpc.UpkeepServiceStub(mesh.channel(_RECORDER))
    begin = upkeep_pb2.BeginCollectionRequest(parent=f"tenants/{tenant}", **_told(batch))
    with _naming_the_recorder():
        name = recorder.BeginCollection(begin).name
    gone = set[Stored]()
    try:
        yield gone
    finally:
        with _naming_the_recorder():
            recorder.EndCollection(upkeep_pb2.EndCollectionRequest(parent=name, **_told(gone)))


def _told(blobs: Sequence[Stored] | set[Stored]) -> dict[str, Any]:
    return {"digests": [one.sha256 for one in blobs], "num_bytes": Amount.of(blobs).num_bytes}


@contextmanager
def _naming_the_recorder() -> Iterator[None]:
    try:
        yield
    except MeshError as error:
        raise named(error, _RECORDER) from error
