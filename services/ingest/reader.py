"""Streams the samples of a data set version back, from any point on.

A cursor is a position in one split of one version. It comes back from the client, so nothing in it is believed: it is
refused unless it names this very version and split and lies within it. One shard is in memory at a time, checked
against its digest before its first sample is sent.
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
from services.ingest.samples import ENVELOPE_BYTES, message_bytes
from services.ingest.versions import DatasetVersions

DEFAULT_BATCH = 64
MAX_BATCH = 1024
BATCH_BYTES = 2 << 20
"""A batch ends early at this size: gRPC clients take messages up to 4 MiB by default."""

_MAX_CURSOR_LENGTH = 1024


@dataclass(frozen=True)
class Batch:
    """Some samples in their stored order.

    Attributes:
        samples: Each with its digest.
        cursor: From where to go on after them.
    """

    samples: list[tuple[Sample, str]]
    cursor: str


class Reader:
    """Reads versions. Thread-safe.

    Args:
        store: Where manifests and shards are.
        versions: The registry.
        max_message_bytes: Largest message of the server.
    """

    def __init__(self, store: ArtifactStore, versions: DatasetVersions, *, max_message_bytes: int) -> None:
        self._store = store
        self._versions = versions
        self._sample_bytes = max_message_bytes - ENVELOPE_BYTES

    def read(self, tenant: str, version: str, split: str, *, cursor: str, batch_size: int) -> Iterator[Batch]:
        """Reads a split of a version to its end.

        Args:
            tenant: Whose it is.
            version: Name of the version, or of an alias.
            split: Empty means `train`.
            cursor: Of an earlier batch of this version and split; empty for the start.
            batch_size: Samples a batch; 0 means 64, at most 1024. Large samples make smaller batches.

        Raises:
            InvalidArgument: BAD_CURSOR, BAD_VALUE (batch_size), and the registry's BAD_NAME.
            NotFound: SPLIT_NOT_FOUND, and the registry's reasons.
            DataLoss: BLOB_DAMAGED, BLOB_NOT_FOUND: the store no longer has what the version consists of.
            ResourceExhausted: MESSAGE_TOO_LARGE: a sample was accepted when messages could be larger.
        """
        if not 0 <= batch_size <= MAX_BATCH:
            message = f"batch_size is {batch_size}; it must be 1 to {MAX_BATCH}, or 0 for {DEFAULT_BATCH}"
            raise InvalidArgument("BAD_VALUE", message, field="batch_size")
        found, split = self._versions.find(tenant, version), split or DEFAULT_SPLIT
        manifest = DatasetManifest.from_bytes(self._blob(tenant, found.manifest_sha256))
        if split not in manifest.splits:
            message = f"{found.name} has no split {split!r}; it has: {', '.join(sorted(manifest.splits))}"
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
                    f"the sample {sample.key!r} takes {sample_size} bytes of a message; at most "
                    f"{self._sample_bytes} fit. Raise `max_message_bytes` of ingest"
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
            # The version exists, so what is missing was there: not the caller's mistake.
            raise DataLoss(error.reason, error.message) from error


def _encode_cursor(version_name: str, split: str, position: int) -> str:
    return base64.urlsafe_b64encode(canonical_json.dumps([version_name, split, position])).decode()


def _decode_cursor(cursor: str, version_name: str, split: str, num_samples: int) -> int:
    if len(cursor) > _MAX_CURSOR_LENGTH:
        raise InvalidArgument("BAD_CURSOR", "the cursor is too long to be one", field="cursor")
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise InvalidArgument("BAD_CURSOR", "the cursor is not one that this service sent", field="cursor") from error
    parts = canonical_json.parse(text, reason="BAD_CURSOR", document="cursor").array()
    if len(parts) != 3 or [parts[0].string(), parts[1].string()] != [version_name, split]:
        message = f"the cursor does not belong to the split {split!r} of {version_name}"
        raise InvalidArgument("BAD_CURSOR", message, field="cursor")
    position = parts[2].integer()
    if position > num_samples:
        raise InvalidArgument("BAD_CURSOR", "the cursor lies beyond the end of the split", field="cursor")
    return position
