"""What ingest refers to in the artifact store: the shards of uploads, and the manifests that commits register."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.upkeep.dump import Reference
from deepseek.data.shards import SHARD_MEDIA_TYPE
from services.ingest.tables import ShardRow, UploadRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that the rows refer to."""
    for tenant, sha256 in session.execute(select(ShardRow.tenant, ShardRow.sha256)):
        yield Reference(tenant, sha256, SHARD_MEDIA_TYPE)
    # A dropped upload keeps the manifest of a commit that failed, which nobody will register any more.
    written = select(UploadRow.manifest).where(UploadRow.manifest != "", UploadRow.deleted.is_(False))
    for text in session.scalars(written):
        manifest = Artifact.from_json(text)
        yield Reference(manifest.tenant, manifest.sha256, manifest.media_type)
