"""Streams the samples of a data set version, starting at any position.

A cursor is a position in one split of one version. Clients send cursors, so each is validated: it must name the version
and split being read, and its position must lie within that split. Only one shard is in memory at a time. The digest of
a shard is verified before the shard's first sample is sent.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from common.artifacts import ArtifactStore
from common.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted
from deepseek.data import canonical_json
from deepseek.data.manifest import DatasetManifest, Shard
from deepseek.data.sample import Sample
from deepseek.data.shards import DEFAULT_SPLIT, read_shard, sample_sha256
from services.ingest.ports import Registry
from services.ingest.samples import ENVELOPE_BYTES, message_bytes

DEFAULT_BATCH = 64
MAX_BATCH = 1024
BATCH_BYTES = 2 << 20
"""Maximum size of a batch of two or more samples. By default, gRPC clients accept messages of at most 4 MiB."""

_MAX_CURSOR_LENGTH = 1024


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a split.

    Attributes:
        samples: Samples, each with its digest.
        cursor: Cursor that points to the sample after the batch.
    """

    samples: list[tuple[Sample, str]]
    cursor: str


class Reader:
    """Reads data set versions. Thread-safe.

    Args:
        store: Store of manifests and shards.
        registry: Registry that resolves the names of versions.
        max_message_bytes: Maximum message size of the server, in bytes.
    """

    def __init__(self, store: ArtifactStore, registry: Registry, *, max_message_bytes: int) -> None:
        self._store = store
        self._registry = registry
        self._sample_bytes = max_message_bytes - ENVELOPE_BYTES

    def read(self, tenant: str, version: str, split: str, *, cursor: str, batch_size: int) -> Iterator[Batch]:
        """Reads a split of a version to its end.

        Args:
            tenant: Tenant that owns the version.
            version: Name of the version or of an alias.
            split: Name of the split; empty means `train`.
            cursor: Cursor from an earlier batch of the same version and split; empty to start at the first sample.
            batch_size: Maximum number of samples per batch, up to 1024; 0 means 64. Batches of large samples contain
                fewer.

        Raises:
            InvalidArgument: BAD_CURSOR; BAD_VALUE for `batch_size`; BAD_NAME from the registry.
            NotFound: SPLIT_NOT_FOUND, or a reason from the registry.
            DataLoss: BLOB_DAMAGED or BLOB_NOT_FOUND if a blob of the version is damaged or missing in the store.
            ResourceExhausted: MESSAGE_TOO_LARGE if a sample does not fit in a message. This can happen if the server
                allowed larger messages when the sample was uploaded.
        """
        if not 0 <= batch_size <= MAX_BATCH:
            message = f"batch_size is {batch_size}; it must be 1 to {MAX_BATCH}, or 0 for {DEFAULT_BATCH}"
            raise InvalidArgument("BAD_VALUE", message, field="batch_size")
        found, split = self._registry.find_dataset_version(tenant, version), split or DEFAULT_SPLIT
        manifest = DatasetManifest.from_bytes(self._blob(tenant, found.manifest_sha256))
        if split not in manifest.splits:
            message = f"{found.name} has no split {split!r}; its splits are: {', '.join(sorted(manifest.splits))}"
            raise NotFound("SPLIT_NOT_FOUND", message, field="split")
        position = 0
        if cursor:
            position = _decode_cursor(cursor, found.name, split, manifest.num_samples(split))
        batch: list[tuple[Sample, str]] = []
        size = 0
        for sample in self._samples(tenant, manifest, manifest.splits[split], position):
            sample_size = message_bytes(sample, manifest.fields)
            full = size + sample_size > min(BATCH_BYTES, self._sample_bytes)
            if batch and (full or len(batch) == (batch_size or DEFAULT_BATCH)):
                position += len(batch)
                yield Batch(batch, _encode_cursor(found.name, split, position))
                batch, size = [], 0
            if sample_size > self._sample_bytes:
                message = (
                    f"the sample {sample.key!r} needs {sample_size} bytes in a message; at most "
                    f"{self._sample_bytes} fit. Raise `max_message_bytes` in the settings of ingest"
                )
                raise ResourceExhausted("MESSAGE_TOO_LARGE", message, field=f"samples[{sample.key}]")
            batch.append((sample, sample_sha256(sample, manifest.fields)))
            size += sample_size
        if batch:
            yield Batch(batch, _encode_cursor(found.name, split, position + len(batch)))

    def _samples(
        self, tenant: str, manifest: DatasetManifest, shards: tuple[Shard, ...], start: int
    ) -> Iterator[Sample]:
        for shard in shards:
            if start < shard.num_samples:
                yield from read_shard(self._blob(tenant, shard.sha256), manifest.fields, start=start)
            start = max(0, start - shard.num_samples)

    def _blob(self, tenant: str, sha256: str) -> bytes:
        try:
            return self._store.read(tenant, sha256)
        except NotFound as error:
            # The version exists, so its blobs must once have existed. A missing blob is therefore lost data, not an
            # error of the caller.
            raise DataLoss(error.reason, error.message) from error


def _encode_cursor(version_name: str, split: str, position: int) -> str:
    return base64.urlsafe_b64encode(canonical_json.dumps([version_name, split, position])).decode()


def _decode_cursor(cursor: str, version_name: str, split: str, num_samples: int) -> int:
    if len(cursor) > _MAX_CURSOR_LENGTH:
        raise InvalidArgument(
            "BAD_CURSOR",
            f"the cursor has {len(cursor)} characters, but this service issues none longer than {_MAX_CURSOR_LENGTH}",
            field="cursor",
        )
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
    except binascii.Error as error:
        message = "this service did not issue the cursor; pass the cursor of a batch unchanged"
        raise InvalidArgument("BAD_CURSOR", message, field="cursor") from error
    parts = canonical_json.parse(text, reason="BAD_CURSOR", document="cursor").array()
    if len(parts) != 3 or [parts[0].string(), parts[1].string()] != [version_name, split]:
        message = f"the cursor does not belong to the split {split!r} of {version_name}"
        raise InvalidArgument("BAD_CURSOR", message, field="cursor")
    position = parts[2].integer()
    if position > num_samples:
        message = f"the cursor points to sample {position}, but the split has only {num_samples} samples"
        raise InvalidArgument("BAD_CURSOR", message, field="cursor")
    return position
