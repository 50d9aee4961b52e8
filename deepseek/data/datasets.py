"""Provides a data set version as tensors: field values are encoded, and repeated fields are padded.

All samples are decoded and encoded once, when the data set is opened. So decoding, by far the most expensive step, is
not repeated in each epoch, and damaged samples are found before training starts. The encoded arrays are kept in memory
up to a size limit; beyond it, memory-mapped temporary files are used. The values of a repeated field are stored end to
end, with one offset per sample, so a batch is padded only to the length of its longest list. The order of the samples
is decided elsewhere, in `deepseek.data.sampler`.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.errors import InvalidArgument, MeshError
from deepseek.data import shards
from deepseek.data.encoders import Encoder
from deepseek.data.manifest import DatasetManifest
from deepseek.data.sample import Sample

TARGET = "target"
"""Key of the target in a sample and in a batch."""
DEFAULT_CACHE_BYTES = 1 << 30


class ShardStore(Protocol):
    """The methods of `common.artifacts.ArtifactStore` that data sets use."""

    def fetch(self, tenant: str, sha256: str, path: Path) -> object:
        """Copies a blob to a new file and verifies the copy."""


@dataclass(frozen=True)
class InputMapping:
    """Assignment of one field of a data set to one tensor of a batch.

    Attributes:
        field: Name of the field in the data set.
        input: Name of the argument of the model's `forward` method that receives the tensor; unused for the target.
        encoder: Encoder of the field; fitted by `fit_encoders`.
        augmentations: Augmentations of training batches, in the order in which they are applied.
    """

    field: str
    input: str
    encoder: Encoder
    augmentations: tuple[Callable[[Tensor], Tensor], ...] = ()


def read_samples(store: ShardStore, tenant: str, manifest: DatasetManifest, split: str) -> Iterator[Sample]:
    """Yields the samples of a split in their stored order. Copies one shard at a time to a temporary folder.

    Raises:
        InvalidArgument: UNKNOWN_SPLIT if the data set has no such split.
        DataLoss: BLOB_DAMAGED if a shard does not match its digest or cannot be read.
        NotFound: BLOB_NOT_FOUND if the store lacks a shard.
    """
    with tempfile.TemporaryDirectory(prefix="deepseek-shard-") as directory:
        for shard in manifest.shards(split):
            path = Path(directory, shard.sha256)
            if not path.exists():
                store.fetch(tenant, shard.sha256, path)
            yield from shards.read_shard(path, manifest.fields)
            path.unlink(missing_ok=True)


def fit_encoders(
    store: ShardStore, tenant: str, manifest: DatasetManifest, split: str, mappings: Sequence[InputMapping]
) -> None:
    """Binds the encoders to their fields, and fits the encoders that learn from data.

    Args:
        store: Store that holds the shards.
        tenant: Tenant that owns the shards.
        manifest: Manifest of the data set version.
        split: Training split. Encoders are never fitted to another split.
        mappings: Mappings of the inputs and of the target.

    Raises:
        InvalidArgument: UNKNOWN_FIELD, UNKNOWN_SPLIT, or an encoder's error about its field or about a value.
    """
    for mapping in mappings:
        mapping.encoder.bind(manifest.field(mapping.field))
    for mapping in mappings:
        if mapping.encoder.learns:
            repeated = manifest.field(mapping.field).repeated
            samples = read_samples(store, tenant, manifest, split)
            values = (sample.values[mapping.field] for sample in samples)
            mapping.encoder.fit((item for value in values for item in value) if repeated else values)


class EncodedDataset:
    """A map-style data set that holds one encoded split of a data set version. Thread-safe after construction.

    `dataset[i]` is a dict of arrays. Its keys are the names of the inputs and, if there is a target, `target`. In the
    array of a repeated field, the first axis is the index into the sample's list of values. `collate` combines samples
    into a batch.

    Args:
        store: Store that holds the shards.
        tenant: Tenant that owns the shards.
        manifest: Manifest of the data set version.
        split: Split to read.
        inputs: Mappings of the model's inputs, with fitted encoders.
        target: Mapping of the target; None for a data set without a target.
        augment: Whether `collate` applies the augmentations. Use True only for training.
        cache_bytes: Maximum total size, in bytes, of the arrays that are kept in memory. Further arrays are written to
            temporary files.

    Raises:
        InvalidArgument: BAD_VALUE if two inputs have the same name or an input is named `target`; UNKNOWN_FIELD;
            UNKNOWN_SPLIT; EMPTY_SPLIT; or an encoder's error about a value, with the sample's key in the message.
        DataLoss, NotFound: As in `read_samples`.
    """

    def __init__(
        self,
        store: ShardStore,
        tenant: str,
        manifest: DatasetManifest,
        split: str,
        inputs: Sequence[InputMapping],
        target: InputMapping | None = None,
        *,
        augment: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        names = [mapping.input for mapping in inputs]
        if len(set(names)) != len(names) or TARGET in names:
            message = f"the inputs are named {', '.join(names)}; each name must be unique and not {TARGET!r}"
            raise InvalidArgument("BAD_VALUE", message, field="inputs")
        self._mappings = dict(zip(names, inputs, strict=True)) | ({TARGET: target} if target else {})
        self._augment = augment
        if not manifest.num_samples(split):
            raise InvalidArgument("EMPTY_SPLIT", f"the split {split!r} has no samples")
        with _Spill(cache_bytes) as spill:
            columns = {
                name: _Column(mapping.encoder, manifest.field(mapping.field).repeated, spill)
                for name, mapping in self._mappings.items()
            }
            self.keys: list[str] = []
            for sample in read_samples(store, tenant, manifest, split):
                self.keys.append(sample.key)
                for name, mapping in self._mappings.items():
                    try:
                        columns[name].append(sample.values[mapping.field])
                    except MeshError as error:
                        where = f"samples[{sample.key}].{mapping.field}"
                        raise InvalidArgument(error.reason, f"{where}: {error.message}", field=where) from error
            self._columns = {name: column.freeze() for name, column in columns.items()}
        self._rows: Sequence[int] = range(len(self.keys))

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Returns the arrays of a sample. All callers share these arrays and must not modify them.

        Raises:
            IndexError: The index is out of range.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self._rows[index]
        return {name: column.get(row) for name, column in self._columns.items()}

    def part(self, indices: Sequence[int], *, augment: bool | None = None) -> "EncodedDataset":
        """Returns a data set of some of the samples, which shares their arrays with this one.

        Args:
            indices: Indices of the samples in this data set.
            augment: As for this class; None means as in this data set.
        """
        part = copy.copy(self)
        part.keys = [self.keys[index] for index in indices]
        part._rows = [self._rows[index] for index in indices]
        part._augment = self._augment if augment is None else augment
        return part

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, without the target."""
        return tuple(name for name in self._mappings if name != TARGET)

    def distinct(self, name: str) -> npt.NDArray[Any]:
        """Returns the distinct numbers in these samples' encoded values of an input or of the target, sorted."""
        return self._columns[name].distinct(self._rows)

    def collate(self, samples: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, Tensor]:
        """Combines samples into a batch.

        Args:
            samples: One or more samples of this data set.

        Returns:
            One tensor per input and, if there is a target, one for the target. The shape is [B, *shape] or, for a
            repeated field, [B, R, *shape], where `shape` is the shape of an encoded value and R is the length of the
            longest list in the batch. Shorter lists are padded with the encoder's `pad`.
        """
        batch = {}
        for name, mapping in self._mappings.items():
            rows = [sample[name] for sample in samples]
            if self._columns[name].repeated:
                rows = _pad(rows, mapping.encoder.pad)
            tensor = torch.from_numpy(np.stack(rows))
            for augmentation in mapping.augmentations if self._augment else ():
                tensor = augmentation(tensor)
            batch[name] = tensor
        return batch


def _pad(rows: Sequence[npt.NDArray[Any]], fill: int) -> list[npt.NDArray[Any]]:
    longest = max(len(row) for row in rows)
    padded = []
    for row in rows:
        full = np.full((longest, *row.shape[1:]), fill, row.dtype)
        full[: len(row)] = row
        padded.append(full)
    return padded


class _Spill:
    """Limits the total memory of all columns. Above the limit, any column that grows moves to a temporary file."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._directory = tempfile.TemporaryDirectory(prefix="deepseek-data-")
        self._num_files = 0

    def take(self, size: int) -> bool:
        """Adds `size` bytes to the total, and returns whether the total is still within the limit."""
        self._left -= size
        return self._left >= 0

    def path(self) -> Path:
        self._num_files += 1
        return Path(self._directory.name, str(self._num_files))

    def __enter__(self) -> "_Spill":
        return self

    def __exit__(self, *_: object) -> None:
        # A memory-mapped file remains readable after it has been unlinked. Its space is freed when it is unmapped.
        self._directory.cleanup()


class _Column:
    """Collects the encoded values of one field. `freeze` turns them into one array with one offset per sample."""

    def __init__(self, encoder: Encoder, repeated: bool, spill: _Spill) -> None:
        self.repeated = repeated
        self._encoder = encoder
        self._spill = spill
        self._chunks: list[npt.NDArray[Any]] = []
        self._file: Any = None
        self._offsets = [0]
        self._values: npt.NDArray[Any] = np.empty(0)

    def append(self, value: Any) -> None:
        encode, encoder = self._encoder.encode, self._encoder
        items = value if self.repeated else [value]
        rows = np.empty((len(items), *encoder.shape), encoder.dtype)
        for i, item in enumerate(items):
            rows[i] = encode(item)
        self._offsets.append(self._offsets[-1] + len(rows))
        if not self._spill.take(rows.nbytes) and self._file is None:
            self._file = self._spill.path().open("w+b")
            for chunk in self._chunks:
                self._file.write(chunk.data)
            self._chunks.clear()
        if self._file is None:
            self._chunks.append(rows)
        else:
            self._file.write(rows.data)

    def freeze(self) -> "_Column":
        shape = (self._offsets[-1], *self._encoder.shape)
        if self._file is None:
            self._values = np.concatenate(self._chunks) if self._chunks else np.empty(shape, self._encoder.dtype)
        else:
            with self._file:
                self._file.flush()
                empty = 0 in shape
                self._values = (
                    np.empty(shape, self._encoder.dtype)
                    if empty
                    else np.memmap(self._file, self._encoder.dtype, "r", shape=shape)
                )
        self._chunks.clear()
        return self

    def distinct(self, rows: Sequence[int]) -> npt.NDArray[Any]:
        chosen = np.zeros(len(self._offsets) - 1, bool)
        chosen[rows] = True
        return np.unique(self._values[np.repeat(chosen, np.diff(self._offsets))])

    def get(self, index: int) -> npt.NDArray[Any]:
        rows = self._values[self._offsets[index] : self._offsets[index + 1]]
        return rows if self.repeated else rows[0]
