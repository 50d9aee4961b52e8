"""A backup: the state of every service, and every blob that this state reaches.

The states are exported one after another, the registry's last, for the reason that `reachable` gives; each state file
includes its references as of the same moment. A blob may be deleted before it is copied: an active run deletes its
older checkpoints, for example. Then the states, which no longer refer to it, are exported again, and blobs that the
backup does not have yet are copied first. Only blobs that are missing twice in a row are lost.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound
from common.upkeep import statefile
from deepseek.client import Mesh
from deepseek.upkeep.folder import BackupFolder, Contents
from deepseek.upkeep.reachable import ANSWER_S, named, reach, services, upkeep
from protos.upkeep.v1 import upkeep_pb2

_MAX_REPEATS = 3
"""How often states are exported again because blobs were deleted before they were copied."""


def back_up(
    mesh: Mesh,
    path: Path,
    *,
    incomplete: bool = False,
    on_blob: Callable[[int, int], None] = lambda done, total: None,
) -> Contents:
    """Takes a backup. What an earlier one has put into the folder is not copied again, but verified.

    Args:
        mesh: The mesh; all its services have to answer.
        path: The folder: a new one, or that of an earlier backup, which this one replaces once it is finished.
        incomplete: Leave out what is lost or damaged in the store, instead of failing.
        on_blob: Called with how many blobs have been dealt with, and of how many.

    Raises:
        FailedPrecondition: BLOBS_LOST if the state refers to what the store does not have whole; as `BackupFolder`.
        MeshError: A service, the store or the disk failed; the folder keeps the backup that it had.
    """
    folder = BackupFolder(path)
    with folder.alone():
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


def _copy(mesh: Mesh, folder: BackupFolder, on_blob: Callable[[int, int], None]) -> Contents:
    """Exports the current states and copies the blobs they reach; returns the contents of the folder."""
    create_us = time.time_ns() // 1000
    states = {service: _take_state(mesh, service, folder) for service in services(mesh)}
    references = [one for sha256 in states.values() for one in _references(folder.state(sha256))]
    reached = reach(mesh.store, references, pass_over_damaged=True)
    lost = {tenant: sorted(digests) for tenant, digests in sorted(reached.lost.items())}
    blobs: dict[str, dict[str, int]] = defaultdict(dict)
    target = folder.blobs()
    wanted = [(tenant, sha256) for tenant, digests in sorted(reached.blobs.items()) for sha256 in sorted(digests)]
    # Blobs in the folder are only verified, which can wait; the others may be deleted soon.
    wanted.sort(key=lambda blob: target.exists(*blob))
    for number, (tenant, sha256) in enumerate(wanted, start=1):
        try:
            mesh.store.copy(tenant, sha256, target)
            blobs[tenant][sha256] = target.size(tenant, sha256)
        except (NotFound, DataLoss):
            lost.setdefault(tenant, []).append(sha256)
        on_blob(number, len(wanted))
    return Contents(create_us, version("deepseek-mesh"), states, blobs, lost)


def _take_state(mesh: Mesh, service: str, folder: BackupFolder) -> str:
    """Puts a service's state file into the folder; returns its digest."""
    temporary, stub = folder.state(f"{service}.tmp"), upkeep(mesh, service)
    with temporary.open("w+b") as file:
        try:
            for answer in stub.ExportState(upkeep_pb2.ExportStateRequest(), timeout=ANSWER_S):
                file.write(answer.data)
            file.seek(0)
            for _ in statefile.read(file):
                pass
        except MeshError as error:
            raise named(error, service) from error
    return folder.keep(temporary)


def _references(path: Path) -> list[upkeep_pb2.Reference]:
    with path.open("rb") as file:
        return [one for part in statefile.read(file) for one in part.references.references]


def _blobs_lost(lost: Mapping[str, list[str]]) -> FailedPrecondition:
    number = sum(map(len, lost.values()))
    tenant, (first, *_) = min(lost.items())
    message = (
        f"{number} blobs that the state refers to are not in the store, or damaged there; the first is {first} of "
        f"tenant {tenant}. Back up again: they may no longer be needed. If they are missing again, they are lost; "
        "use --incomplete to back up without them"
    )
    return FailedPrecondition("BLOBS_LOST", message)
