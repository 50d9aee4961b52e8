"""The job that turns an upload into a data set version.

The job stores each split's last shard, then the manifest. It asks the registry to add the version, and completes in a
fenced transaction. The call to the registry is the point of no return: if the response is lost, only a repeated call
shows whether the version was added. Before the call, the job therefore records the manifest. It then repeats the call,
with a request id derived from the upload and the manifest, until the registry responds. Once the manifest is recorded,
neither a cancellation nor a crash ends the job.
"""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact, ArtifactStore
from common.database import Database
from common.errors import Cancelled
from common.jobs import Lease
from common.remote import until_answered
from deepseek.data.manifest import MEDIA_TYPE, DatasetManifest, Shard
from deepseek.data.quarantine import QUARANTINE_SPLIT
from deepseek.data.shards import SHARD_MEDIA_TYPE, encode_shard
from services.ingest.ports import Registry
from services.ingest.stored import discard_samples, staged_samples
from services.ingest.tables import ChunkRow, ShardRow, UploadRow

JOB_KIND = "ingest.commit"


def job_spec(upload_id: str) -> str:
    """Returns the spec of the job that commits an upload."""
    return json.dumps({"upload_id": upload_id})


class CommitHandler:
    """Handles jobs of the kind `ingest.commit`. Thread-safe.

    Args:
        database: Database of ingest.
        store: Store of shards and manifests.
        registry: Registry that the versions are added to.
    """

    def __init__(self, database: Database, store: ArtifactStore, registry: Registry) -> None:
        self._database = database
        self._store = store
        self._registry = registry

    def __call__(self, lease: Lease) -> None:
        """Commits the upload of the leased job. The job's result is the name of the version.

        Raises:
            MeshError: The store failed, or the registry rejected the version. No version is published.
            Cancelled: The job was cancelled before the point of no return.
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
        """Stores the last shards and the manifest; records and returns the manifest.

        Returns None if this process has to stop first.
        """
        with self._database.snapshot() as session:
            splits, unfinished = _full_shards(session, upload), _unfinished_splits(session, upload)
        for i, split in enumerate(unfinished):
            _check_cancelled(lease, upload)
            if lease.stopping.is_set():
                return None
            lease.update(progress=i / (len(unfinished) + 1), message=f"writing the last shard of {split}")
            with self._database.snapshot() as session:
                samples = list(staged_samples(session, upload, split))
            shard = self._store.put(upload.tenant, encode_shard(samples, upload.fields(split)), SHARD_MEDIA_TYPE)
            splits.setdefault(split, []).append(Shard(shard.sha256, shard.size_bytes, len(samples)))
        quarantine = splits.pop(QUARANTINE_SPLIT, [])
        shards_of = {name: tuple(shards) for name, shards in splits.items()}
        manifest = DatasetManifest(upload.fields(), shards_of, tuple(quarantine))
        assert manifest.num_samples() == upload.num_samples, "every durable sample is in exactly one shard"
        artifact = self._store.put(upload.tenant, manifest.to_bytes(), MEDIA_TYPE)
        with lease.transaction() as session:
            _check_cancelled(lease, upload)
            row = _load(session, upload.tenant, upload.upload_id)
            row.registering_job, row.manifest = lease.job.name, artifact.to_json()
        return artifact

    def _register(self, lease: Lease, upload: UploadRow, manifest: Artifact) -> str | None:
        """Registers the version and returns its name; None if this process must stop. Another then registers it."""
        request_id = f"ingest-{upload.upload_id}-{manifest.sha256}"
        lease.update(message="registering the version")
        version_name = until_answered(
            lease,
            lambda: self._registry.register_dataset_version(
                upload.dataset, manifest, upload.num_samples, upload.source_names(), request_id
            ),
            callee="registry",
            cancellable=False,
        )
        if version_name is None:
            # The lease is released explicitly. If the job was cancelled, a plain return would end the job as cancelled,
            # although it is too late to cancel the commit.
            lease.release()
        return version_name


def _check_cancelled(lease: Lease, upload: UploadRow) -> None:
    if lease.cancelled.is_set():
        raise Cancelled("JOB_CANCELLED", f"the commit of uploads/{upload.upload_id} was cancelled")


def _load(session: Session, tenant: str, upload_id: str) -> UploadRow:
    upload = session.get(UploadRow, (tenant, upload_id))
    assert upload is not None, "rows of uploads are never deleted"
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
