"""The domain of ingest on a real database and store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from common.artifacts import ArtifactStore
from common.channel import open_channel
from common.database import Database, Repeatable
from common.jobs import JobStore
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from services.ingest.checks import Checks
from services.ingest.clients.registry import RegistryClient
from services.ingest.samples import ReceivedSample, num_bytes
from services.ingest.stored import staged_samples
from services.ingest.tables import ChunkRow, ShardRow, UploadRow
from services.ingest.uploads import Uploads
from services.ingest.writer import Limits

TENANT = "default"
NUMBERS = (Field("number", "integer"),)
NUMBER_BYTES = num_bytes(Sample("k0", "train", {"number": 0}))
BLOBS = (Field("data", "bytes"),)


def open_uploads(
    database: Database,
    store: ArtifactStore,
    *,
    jobs: JobStore | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> Uploads:
    """Uploads whose registry does not respond."""
    registry = RegistryClient(open_channel("127.0.0.1:1"))
    return Uploads(database, store, jobs or JobStore(database), registry, lambda: None, Checks(), limits)


@dataclass(frozen=True)
class State:
    """The domain on a real database and store."""

    database: Database
    store: ArtifactStore
    uploads: Uploads

    def create(self, fields: Sequence[Field] = NUMBERS, *, quarantine: bool = False) -> str:
        call = Repeatable("CreateUpload")
        return self.uploads.create(TENANT, "datasets/d", fields, call, quarantine=quarantine).name

    def write(self, name: str, samples: Iterable[ReceivedSample], *, offset: int = 0) -> None:
        with self.uploads.write(TENANT, name, offset=offset) as writer:
            for sample in samples:
                writer.add([sample])

    def num_samples(self, name: str) -> int:
        return self.uploads.get(TENANT, name).num_samples

    def content(self, name: str) -> tuple[list[tuple[str, int, str]], list[tuple[str, str]]]:
        """Shards as (split, number, digest) and, beyond them, samples as (split, key)."""
        with self.database.snapshot() as session:
            upload = session.get(UploadRow, (TENANT, name.removeprefix("uploads/")))
            assert upload is not None
            of_upload = ShardRow.upload_id == upload.upload_id
            rows = session.scalars(select(ShardRow).where(of_upload).order_by(ShardRow.split, ShardRow.number))
            shards = [(row.split, row.number, row.sha256) for row in rows]
            splits = session.scalars(select(ChunkRow.split).where(ChunkRow.upload_id == upload.upload_id).distinct())
            staged = [
                (split, sample.key) for split in sorted(splits) for sample in staged_samples(session, upload, split)
            ]
        return shards, staged
