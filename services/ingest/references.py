"""Artifacts that ingest refers to: the shards of uploads, and the manifests of commits.

Once a commit has succeeded, the registry refers to its manifest, until the version is deleted.
"""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.jobs import JobState
from common.jobs.job import JobRow
from common.upkeep.dump import Reference
from deepseek.data.shards import SHARD_MEDIA_TYPE
from services.ingest.tables import ShardRow, UploadRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that a row in the database refers to."""
    for tenant, sha256 in session.execute(select(ShardRow.tenant, ShardRow.sha256)):
        yield Reference(tenant, sha256, SHARD_MEDIA_TYPE)
    # The row of a deleted upload may still contain the manifest of a failed commit. Such a manifest is never
    # registered.
    registered = select(JobRow.job_id).where(JobRow.state == JobState.SUCCEEDED.value)
    succeeded = {f"jobs/{job_id}" for job_id in session.scalars(registered)}
    written = select(UploadRow.manifest, UploadRow.registering_job).where(
        UploadRow.manifest != "", UploadRow.deleted.is_(False)
    )
    for text, job in session.execute(written):
        if job in succeeded:
            continue
        manifest = Artifact.from_json(text)
        yield Reference(manifest.tenant, manifest.sha256, manifest.media_type)
