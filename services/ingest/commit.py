"""The job that turns an upload into a data set version.

It puts the last shard of every split and the manifest into the store, has the registry add the version, and closes the
matter in one fenced transaction with the job's own end. Until the registry is asked everything can be repeated or
dropped without a trace but unreferenced blobs. Asking it is the point of no return: its answer may be lost, and then
only asking again tells what happened. So the job records beforehand what it is going to ask, and from there on neither
a cancellation nor an unreachable registry or store ends it: it asks the same, with a request id made from the upload
and the manifest, until it is answered. A job taken up again after a crash thus makes the same version, once.
"""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact, ArtifactStore
from common.database import Database
from common.errors import Cancelled, DeadlineExceeded, Unavailable
from common.jobs import Lease
from deepseek.data.manifest import MEDIA_TYPE, DatasetManifest, Shard
from deepseek.data.shards import SHARD_MEDIA_TYPE, encode_shard
from services.ingest.tables import ChunkRow, ShardRow, UploadRow
from services.ingest.uploads import discard_samples
from services.ingest.versions import DatasetVersions
from services.ingest.writer import staged_samples

REGISTRY_RETRY_S = 1.0


class Commits:
    """Runs commit jobs. Thread-safe.

    Args:
        database: Ingest's state.
        store: Where shards and manifests go.
        versions: The registry.
    """

    def __init__(self, database: Database, store: ArtifactStore, versions: DatasetVersions) -> None:
        self._database = database
        self._store = store
        self._versions = versions

    def run(self, lease: Lease) -> None:
        """Handles a job of kind `ingest.commit`; its result is the version's name.

        Raises:
            MeshError: The store failed or the registry refused; nothing was published.
            Cancelled: Before the point of no return.
        """
        tenant, upload_id = lease.job.tenant, str(json.loads(lease.job.spec)["upload_id"])
        with self._database.snapshot() as session:
            upload = _load(session, tenant, upload_id)
        if upload.registering_job == lease.job.name:
            manifest: Artifact | None = Artifact.from_json(upload.manifest)
        else:
            manifest = self._decide(lease, upload)
        if manifest is None or (version_name := self._register(lease, upload, manifest)) is None:
            return

        def publish(session: Session) -> str:
            discard_samples(session, _load(session, tenant, upload_id))
            return version_name

        lease.complete(publish)

    def _decide(self, lease: Lease, upload: UploadRow) -> Artifact | None:
        """Puts everything into the store and passes the point of no return; None if this worker is to stop."""
        with self._database.snapshot() as session:
            splits, unfinished = _full_shards(session, upload), _unfinished_splits(session, upload)
        for i, split in enumerate(unfinished):
            _check_cancelled(lease, upload)
            if lease.stopping.is_set():
                return None
            lease.update(progress=i / (len(unfinished) + 1), message=f"writing the last shard of {split}")
            with self._database.snapshot() as session:
                samples = list(staged_samples(session, upload, split))
            shard = self._store.put(upload.tenant, encode_shard(samples, upload.fields()), SHARD_MEDIA_TYPE)
            splits.setdefault(split, []).append(Shard(shard.sha256, shard.size_bytes, len(samples)))
        manifest = DatasetManifest(upload.fields(), {name: tuple(shards) for name, shards in splits.items()})
        assert manifest.num_samples() == upload.num_samples, "every durable sample is in one shard"
        artifact = self._store.put(upload.tenant, manifest.to_bytes(), MEDIA_TYPE)
        with lease.transaction() as session:
            _check_cancelled(lease, upload)
            row = _load(session, upload.tenant, upload.upload_id)
            row.registering_job, row.manifest = lease.job.name, artifact.to_json()
        return artifact

    def _register(self, lease: Lease, upload: UploadRow, manifest: Artifact) -> str | None:
        """Name of the version; None if this worker is to stop and another will ask again."""
        request_id = f"ingest-{upload.upload_id}-{manifest.sha256}"
        while not lease.lost.is_set():
            lease.update(message="registering the version")
            try:
                return self._versions.register(upload.dataset, manifest, upload.num_samples, request_id)
            except (Unavailable, DeadlineExceeded, Cancelled) as error:
                lease.update(message=f"waiting for the registry: {error.message}")
            if lease.stopping.wait(REGISTRY_RETRY_S):
                # Explicitly, because merely returning would also answer a cancellation, for which it is too late.
                lease.release()
                return None
        return None


def _check_cancelled(lease: Lease, upload: UploadRow) -> None:
    if lease.cancelled.is_set():
        raise Cancelled("JOB_CANCELLED", f"the commit of uploads/{upload.upload_id} was cancelled")


def _load(session: Session, tenant: str, upload_id: str) -> UploadRow:
    upload = session.get(UploadRow, (tenant, upload_id))
    assert upload is not None, "the rows of uploads stay"
    return upload


def _full_shards(session: Session, upload: UploadRow) -> dict[str, list[Shard]]:
    splits: dict[str, list[Shard]] = {}
    of_upload = ShardRow.tenant == upload.tenant, ShardRow.upload_id == upload.upload_id
    for row in session.scalars(select(ShardRow).where(*of_upload).order_by(ShardRow.split, ShardRow.number)):
        splits.setdefault(row.split, []).append(Shard(row.sha256, row.size_bytes, row.num_samples))
    return splits


def _unfinished_splits(session: Session, upload: UploadRow) -> list[str]:
    of_upload = ChunkRow.tenant == upload.tenant, ChunkRow.upload_id == upload.upload_id
    return list(session.scalars(select(ChunkRow.split).where(*of_upload).distinct().order_by(ChunkRow.split)))
