"""Garbage: blobs that nothing reaches and that nobody has put for a while.

The while, the grace period, is what keeps work under way safe: bytes are put first and referred to later. A put makes
the age of what it finds stored new, and the store looks at the age again in the moment of deletion, so what somebody
puts while the garbage is being collected stays.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.artifacts.store import Stored
from common.errors import InvalidArgument
from deepseek.client import Mesh
from deepseek.upkeep.reachable import reach, references


@dataclass(frozen=True)
class Amount:
    """So many blobs, of so many bytes together."""

    num_blobs: int = 0
    num_bytes: int = 0

    def plus(self, stored: Stored) -> "Amount":
        """With one blob more."""
        return Amount(self.num_blobs + 1, self.num_bytes + stored.size_bytes)


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
        on_blob: Called with how many blobs have been dealt with, and of how many.

    Raises:
        MeshError: A service or the store did not answer, or a manifest could not be read; nothing was deleted unless
            it is the store that failed in the middle.
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
    total = sum(map(len, unreachable.values()))
    done = 0
    tenants = []
    for tenant, found in unreachable.items():
        young = removed = Amount()
        for stored in found:
            gone = stored.put_us < limit_us and (dry_run or store.expire(tenant, stored.sha256, limit_us))
            young, removed = (young, removed.plus(stored)) if gone else (young.plus(stored), removed)
            done += 1
            on_blob(done, total)
        tenants.append(TenantGarbage(tenant, reachable[tenant], young, removed))
    return Collection(tuple(tenants), reached.lost, reached.unreadable)
