"""Restores a backup into an unused mesh. The entire backup is verified before the mesh is changed.

Blobs are restored first. The states follow in the reverse of the order in which they were exported, so the registry's
state comes first. A service resumes its jobs as soon as its state is restored, so everything that those jobs need must
already be in place.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound
from common.upkeep import statefile
from deepseek.client import Mesh
from deepseek.upkeep.folder import BackupContents, BackupFolder
from deepseek.upkeep.reachable import STREAM_TIMEOUT_S, services_in_order, upkeep_stub, with_service_name
from protos.upkeep.v1 import upkeep_pb2

_CHUNK_BYTES = 1 << 20


def restore(
    mesh: Mesh, path: Path, *, on_blob: Callable[[int, int], None] = lambda done, total: None
) -> tuple[BackupContents, dict[str, int]]:
    """Restores a backup into a mesh that has not been used yet. Jobs that were running during the backup are resumed.

    Args:
        mesh: Mesh whose services are all available.
        path: Folder of the backup.
        on_blob: Called with the number of completed steps and the total number of steps. There are two steps per blob:
            verification and copying.

    Returns:
        The contents of the backup, and the number of restored rows, by service.

    Raises:
        DataLoss: BACKUP_DAMAGED. The mesh has not been changed.
        FailedPrecondition: STATE_NOT_EMPTY if the mesh has been used; STATE_TOO_NEW if a newer release took the backup;
            BACKUP_NOT_FOUND or BACKUP_TOO_NEW as in `BackupFolder.contents`. The mesh has not been changed.
        MeshError: A service or the store failed. Start again with another unused mesh.
    """
    folder = BackupFolder(path)
    contents = folder.contents()
    total = 2 * contents.num_blobs
    revisions = {service: _verified_state(folder.state(sha256), sha256) for service, sha256 in contents.states.items()}
    source = folder.blobs()
    for done, (tenant, sha256) in enumerate(_blobs(contents), start=1):
        try:
            source.verify(tenant, sha256)
        except (NotFound, DataLoss) as error:
            raise DataLoss(
                "BACKUP_DAMAGED", f"the backup in {path} is damaged: {error.message}; use another backup"
            ) from error
        on_blob(done, total)
    order = list(reversed(services_in_order(mesh)))
    for service in {*order, *contents.states}:
        _check_target(mesh, service, revisions.get(service, set()))
    for done, (tenant, sha256) in enumerate(_blobs(contents), start=contents.num_blobs + 1):
        source.copy(tenant, sha256, mesh.store)
        on_blob(done, total)
    num_rows = {}
    for service in order:
        if service in contents.states:
            num_rows[service] = _send_state(mesh, service, folder.state(contents.states[service]))
    return contents, num_rows


def _blobs(contents: BackupContents) -> Iterator[tuple[str, str]]:
    return ((tenant, sha256) for tenant, blobs in contents.blobs.items() for sha256 in blobs)


def _verified_state(path: Path, sha256: str) -> set[str]:
    """Verifies a state file and returns the schema revisions that its header lists."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise DataLoss("BACKUP_DAMAGED", f"{path} no longer matches its digest; use another backup")
            file.seek(0)
            header = next(statefile.read(file)).header
    except FileNotFoundError as error:
        raise DataLoss("BACKUP_DAMAGED", f"{path} is missing; use another backup") from error
    return set(header.revisions)


def _check_target(mesh: Mesh, service: str, revisions: set[str]) -> None:
    state = upkeep_stub(mesh, service).GetState(upkeep_pb2.GetStateRequest())
    if state.num_rows:
        message = f"{service} already has {state.num_rows} rows; restore the backup into a mesh that has not been used"
        raise FailedPrecondition("STATE_NOT_EMPTY", message)
    if unknown := revisions - set(state.known_revisions):
        names = ", ".join(sorted(unknown))
        message = f"{service}: a newer release took this backup (schema revision {names}); install that release"
        raise FailedPrecondition("STATE_TOO_NEW", message)


def _send_state(mesh: Mesh, service: str, path: Path) -> int:
    stub = upkeep_stub(mesh, service)
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        requests = (upkeep_pb2.ImportStateRequest(data=chunk) for chunk in chunks)
        try:
            num_rows: int = stub.ImportState(requests, timeout=STREAM_TIMEOUT_S).num_rows
        except MeshError as error:
            raise with_service_name(error, service) from error
    return num_rows
