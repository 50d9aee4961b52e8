"""A data set version as tensors: its fields encoded, its repeated fields padded.

Every sample is decoded and encoded once, when the data set is opened: decoding costs far more than anything else that
happens to a sample, and a damaged one is found before training begins. The arrays are kept in memory up to a limit,
beyond it in a temporary file that is mapped into memory. Values of a repeated field lie end to end with an offset a
sample, so a batch is gathered without padding anything that is not in it.

Order and ranks are the sampler's business (`deepseek.data.sampler`).
"""

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
    """What is needed of a `common.artifacts.ArtifactStore`."""

    def fetch(self, tenant: str, sha256: str, path: Path) -> object:
        """Copies a blob to a new file, verified."""


@dataclass(frozen=True)
class InputMapping:
    """How one field becomes one tensor.

    Attributes:
        field: Field of the data set.
        input: Name of the model's forward argument; unused for the target.
        encoder: Its encoder, fitted (`fit_encoders`).
        augmentations: Applied in order to batches of a training data set.
    """

    field: str
    input: str
    encoder: Encoder
    augmentations: tuple[Callable[[Tensor], Tensor], ...] = ()


def read_samples(store: ShardStore, tenant: str, manifest: DatasetManifest, split: str) -> Iterator[Sample]:
    """Reads a split's samples in their stored order, one shard at a time on disk.

    Raises:
        InvalidArgument: UNKNOWN_SPLIT.
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
    """Binds encoders to their fields and fits those that learn on a split, which must be the training split.

    Args:
        store: Where the shards are.
        tenant: Whose they are.
        manifest: The data set version.
        split: The training split.
        mappings: Inputs and target.

    Raises:
        InvalidArgument: UNKNOWN_FIELD, UNKNOWN_SPLIT, or what the encoder says of a value.
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
    """One split of a data set version, encoded; map-style, and thread-safe once it is made.

    `dataset[i]` is a dict of arrays, keyed by the inputs' names and `target`; a repeated field has its values in
    the first axis. `collate` makes a batch of several.

    Args:
        store: Where the shards are.
        tenant: Whose they are.
        manifest: The data set version.
        split: Which split.
        inputs: The model's inputs, their encoders fitted.
        target: The target; None if there is none.
        augment: Apply the inputs' augmentations to batches; for training only.
        cache_bytes: What may be kept in memory, bytes; beyond it the arrays go to a temporary file.

    Raises:
        InvalidArgument: BAD_VALUE if inputs repeat a name, UNKNOWN_FIELD, UNKNOWN_SPLIT, EMPTY_SPLIT, or what an
            encoder says of a value; the message names the sample.
        DataLoss, NotFound: As `read_samples`.
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
            message = f"the inputs {', '.join(names)} must differ from each other and from {TARGET!r}"
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

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Returns a sample's arrays; they are shared and not to be written to.

        Raises:
            IndexError: There is no such sample.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: column.get(index % len(self)) for name, column in self._columns.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(name for name in self._mappings if name != TARGET)

    def collate(self, samples: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, Tensor]:
        """Makes a batch.

        Args:
            samples: At least one sample of this data set.

        Returns:
            For each input, and `target`: [B, *shape], or [B, R, *shape] for a repeated field, where R is the length of
            the longest list in the batch and shorter ones are filled with the encoder's `pad`.
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
    """Counts the bytes of all columns; beyond the limit, each column goes on in a temporary file."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._directory = tempfile.TemporaryDirectory(prefix="deepseek-data-")
        self._num_files = 0

    def take(self, size: int) -> bool:
        """Counts `size` more bytes; tells whether they still fit in memory."""
        self._left -= size
        return self._left >= 0

    def path(self) -> Path:
        self._num_files += 1
        return Path(self._directory.name, str(self._num_files))

    def __enter__(self) -> "_Spill":
        return self

    def __exit__(self, *_: object) -> None:
        # A mapped file stays readable after its name is gone, and vanishes with the process however that ends.
        self._directory.cleanup()


class _Column:
    """The encoded values of one field: collected, then frozen into one array with an offset a sample."""

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

    def get(self, index: int) -> npt.NDArray[Any]:
        rows = self._values[self._offsets[index] : self._offsets[index + 1]]
        return rows if self.repeated else rows[0]
