"""From a backup to a mesh: everything is verified before anything is changed.

Blobs come first, then the states in the reverse order of the backup, the registry's first: as soon as a service has
its jobs it goes on with them, and has to find what they refer to. What was under way when the backup was taken goes on
here.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound
from common.upkeep import statefile
from deepseek.client import Mesh
from deepseek.upkeep.folder import BackupFolder, Contents
from deepseek.upkeep.reachable import ANSWER_S, named, services, upkeep
from protos.upkeep.v1 import upkeep_pb2

_CHUNK_BYTES = 1 << 20


def restore(
    mesh: Mesh, path: Path, *, on_blob: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Contents, dict[str, int]]:
    """Restores a backup into a mesh that nobody has used yet.

    Args:
        mesh: The mesh; all its services have to answer.
        path: The backup's folder.
        on_blob: Called with how many blobs have been verified or copied, and of how many: twice each.

    Returns:
        What was restored, and the number of rows of each service.

    Raises:
        DataLoss: BACKUP_DAMAGED; nothing was changed.
        FailedPrecondition: STATE_NOT_EMPTY, STATE_TOO_NEW, or as `BackupFolder.contents`; nothing was changed.
        MeshError: A service or the store failed; start again with another fresh mesh.
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
            raise DataLoss("BACKUP_DAMAGED", f"in {path}: {error.message}; use another backup") from error
        on_blob(done, total)
    order = list(reversed(services(mesh)))
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


def _blobs(contents: Contents) -> Iterator[tuple[str, str]]:
    return ((tenant, sha256) for tenant, blobs in contents.blobs.items() for sha256 in blobs)


def _verified_state(path: Path, sha256: str) -> set[str]:
    """Reads a state file through; returns the revisions it is of."""
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
    state = upkeep(mesh, service).GetState(upkeep_pb2.GetStateRequest())
    if state.num_rows:
        message = f"{service} has {state.num_rows} rows already; restore into a mesh that nobody has used yet"
        raise FailedPrecondition("STATE_NOT_EMPTY", message)
    if unknown := revisions - set(state.known_revisions):
        message = f"{service}: a newer release took this backup ({', '.join(sorted(unknown))}); install that one"
        raise FailedPrecondition("STATE_TOO_NEW", message)


def _send_state(mesh: Mesh, service: str, path: Path) -> int:
    stub = upkeep(mesh, service)
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        requests = (upkeep_pb2.ImportStateRequest(data=chunk) for chunk in chunks)
        try:
            num_rows: int = stub.ImportState(requests, timeout=ANSWER_S).num_rows
        except MeshError as error:
            raise named(error, service) from error
    return num_rows
