"""Reads the quarantines of uploads and of data set versions."""

from collections.abc import Iterator

from sqlalchemy import select

from common.artifacts import ArtifactStore
from common.database import Database
from common.errors import DataLoss, NotFound
from common.names import parse
from deepseek.data.manifest import DatasetManifest
from deepseek.data.quarantine import QUARANTINE_SPLIT, read_rows
from deepseek.data.sample import Sample
from services.ingest.ports import Registry
from services.ingest.stored import staged_samples
from services.ingest.tables import ShardRow, UploadRow


class QuarantineReader:
    """Reads quarantines. Thread-safe.

    Args:
        database: Database of ingest.
        store: Store of manifests and shards.
        registry: Registry that resolves the names of versions.
    """

    def __init__(self, database: Database, store: ArtifactStore, registry: Registry) -> None:
        self._database = database
        self._store = store
        self._registry = registry

    def read(self, tenant: str, parent: str, *, after_position: int) -> Iterator[Sample]:
        """Yields the rows of a quarantine, in the order in which the samples were sent.

        Args:
            tenant: Tenant that owns the upload or version.
            parent: Name of an upload, of a data set version or of an alias.
            after_position: Rows up to this position are skipped.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: UPLOAD_NOT_FOUND, or a reason from the registry.
            DataLoss: BLOB_DAMAGED or BLOB_NOT_FOUND if a blob is damaged or missing in the store.
        """
        of_upload = parent.startswith("uploads/")
        rows = self._of_upload(tenant, parent) if of_upload else self._of_version(tenant, parent)
        return (row for row in rows if row.values["position"] > after_position)

    def _of_upload(self, tenant: str, name: str) -> Iterator[Sample]:
        (upload_id,) = parse(name, "uploads/{}", field="parent")
        with self._database.snapshot() as session:
            upload = session.get(UploadRow, (tenant, upload_id))
            if upload is None:
                raise NotFound("UPLOAD_NOT_FOUND", f"the upload {name!r} does not exist", field="parent")
            of_quarantine = (
                ShardRow.tenant == tenant,
                ShardRow.upload_id == upload_id,
                ShardRow.split == QUARANTINE_SPLIT,
            )
            shards = list(session.scalars(select(ShardRow.sha256).where(*of_quarantine).order_by(ShardRow.number)))
            staged = list(staged_samples(session, upload, QUARANTINE_SPLIT))
        yield from self._of_shards(tenant, shards)
        yield from staged

    def _of_version(self, tenant: str, name: str) -> Iterator[Sample]:
        found = self._registry.find_dataset_version(tenant, name)
        manifest = DatasetManifest.from_bytes(self._blob(tenant, found.manifest_sha256))
        yield from self._of_shards(tenant, [shard.sha256 for shard in manifest.quarantine])

    def _of_shards(self, tenant: str, shards: list[str]) -> Iterator[Sample]:
        for sha256 in shards:
            yield from read_rows(self._blob(tenant, sha256))

    def _blob(self, tenant: str, sha256: str) -> bytes:
        try:
            return self._store.read(tenant, sha256)
        except NotFound as error:  # it must once have existed
            raise DataLoss(error.reason, error.message) from error
