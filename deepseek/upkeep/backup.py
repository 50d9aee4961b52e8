"""Backs up the state of every service, and all blobs that those states reference directly or through manifests.

The states are exported one after another, the registry's state last (`reachable` explains why). Each exported state
contains the references that its service held at the time of the export. A blob may be deleted before it is copied; for
example, an active run deletes its older checkpoints. In that case, the states are exported again, and blobs that are
not yet in the backup are copied before the others are verified. Blobs count as lost if two passes in a row miss the
same blobs, or if they are still missing after `_MAX_REPEATS` repeated exports.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound
from common.upkeep import statefile
from deepseek.client import Mesh
from deepseek.upkeep.folder import BackupContents, BackupFolder
from deepseek.upkeep.reachable import STREAM_TIMEOUT_S, reach, services_in_order, upkeep_stub, with_service_name
from protos.upkeep.v1 import upkeep_pb2

_MAX_REPEATS = 3
"""Maximum number of repeated exports. The states are exported again if a blob was deleted before it was copied."""


def back_up(
    mesh: Mesh,
    path: Path,
    *,
    incomplete: bool = False,
    on_blob: Callable[[int, int], None] = lambda done, total: None,
) -> BackupContents:
    """Takes a backup. Blobs that are already in the folder from an earlier backup are verified, not copied again.

    Args:
        mesh: Mesh whose services are all available.
        path: A new folder, or the folder of an earlier backup. The new backup replaces the earlier one only when the
            new one is complete.
        incomplete: Whether to leave out blobs that are missing from the store or damaged, instead of failing.
        on_blob: Called with the number of blobs processed so far and the total number of blobs.

    Raises:
        FailedPrecondition: BLOBS_LOST if the states reference blobs that are missing or damaged, and `incomplete` is
            False; NOT_A_BACKUP or BACKUP_RUNNING as in `BackupFolder.locked`.
        MeshError: A service, the store or the disk failed. An earlier backup in the folder remains valid.
    """
    folder = BackupFolder(path)
    with folder.locked():
        contents = _copy(mesh, folder, on_blob)
        for _ in range(_MAX_REPEATS):
            if not contents.lost:
                break
            missing, contents = contents.lost, _copy(mesh, folder, on_blob)
            if contents.lost == missing:
                break
        if contents.lost and not incomplete:
            raise _blobs_lost(contents.lost)
        folder.finish(contents)
    return contents


def _copy(mesh: Mesh, folder: BackupFolder, on_blob: Callable[[int, int], None]) -> BackupContents:
    """Exports the current states, copies all blobs that those states reference, and returns the backup's contents."""
    create_us = time.time_ns() // 1000
    states = {service: _take_state(mesh, service, folder) for service in services_in_order(mesh)}
    references = [one for sha256 in states.values() for one in _references(folder.state(sha256))]
    reached = reach(mesh.store, references, damaged_is_lost=True)
    lost = {tenant: sorted(digests) for tenant, digests in sorted(reached.lost.items())}
    blobs: dict[str, dict[str, int]] = defaultdict(dict)
    target = folder.blobs()
    wanted = [(tenant, sha256) for tenant, digests in sorted(reached.blobs.items()) for sha256 in sorted(digests)]
    # New blobs come first, because the mesh may delete them at any time. Blobs already in the folder are only verified.
    wanted.sort(key=lambda blob: target.exists(*blob))
    for number, (tenant, sha256) in enumerate(wanted, start=1):
        try:
            mesh.store.copy(tenant, sha256, target)
            blobs[tenant][sha256] = target.size(tenant, sha256)
        except (NotFound, DataLoss):
            lost.setdefault(tenant, []).append(sha256)
        on_blob(number, len(wanted))
    return BackupContents(create_us, version("deepseek-mesh"), states, blobs, lost)


def _take_state(mesh: Mesh, service: str, folder: BackupFolder) -> str:
    """Writes a service's state file into the folder and returns the digest of the file."""
    temporary, stub = folder.state(f"{service}.tmp"), upkeep_stub(mesh, service)
    with temporary.open("w+b") as file:
        try:
            for answer in stub.ExportState(upkeep_pb2.ExportStateRequest(), timeout=STREAM_TIMEOUT_S):
                file.write(answer.data)
            file.seek(0)
            for _ in statefile.read(file):
                pass
        except MeshError as error:
            raise with_service_name(error, service) from error
    return folder.place_state(temporary)


def _references(path: Path) -> list[upkeep_pb2.Reference]:
    with path.open("rb") as file:
        return [one for part in statefile.read(file) for one in part.references.references]


def _blobs_lost(lost: Mapping[str, list[str]]) -> FailedPrecondition:
    number = sum(map(len, lost.values()))
    tenant, (first, *_) = min(lost.items())
    message = (
        f"the state refers to {number} blobs that are missing from the store or damaged, e.g. {first} of tenant "
        f"{tenant}. Back up again, because the blobs may no longer be needed. If the error remains, they are lost; "
        "use --incomplete to back up without them"
    )
    return FailedPrecondition("BLOBS_LOST", message)
