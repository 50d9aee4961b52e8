"""Reads a data set version sample by sample, in any order, as a map-style data set for PyTorch."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepseek.data.manifest import DatasetManifest, Field
from deepseek.data.shard_cache import OpenShard, ShardCache

if TYPE_CHECKING:
    from deepseek.data.iterable import StoredIterable


class StoredDataset:
    """One split of a data set version, as a map-style data set. Thread-safe, and usable in forked processes.

    `dataset[i]` is a dict with one value per field:

    | field | value |
    | --- | --- |
    | image | uint8 [H, W, 3] |
    | audio | float32 [frames, channels] |
    | label | class number |
    | integer, number | int or float |
    | text, bytes | str or bytes |

    The value of a repeated field is a list of such values. Use it with `torch.utils.data.DataLoader`, or with
    `deepseek.data.loader.Loader`, which can resume within an epoch.

    Args:
        manifest: Manifest of the version.
        split: Split to read.
        cache: Cache that provides the shards.
        fields: Names of the fields to read; None means all.
        decode: Whether to decode images and audio; if not, their values are the bytes of the files.
        transform: Function that is applied to each sample.

    Attributes:
        manifest: Manifest of the version.
        fields: Fields that are read.

    Raises:
        InvalidArgument: UNKNOWN_SPLIT, UNKNOWN_FIELD.
    """

    def __init__(
        self,
        manifest: DatasetManifest,
        split: str,
        cache: ShardCache,
        *,
        fields: Sequence[str] | None = None,
        decode: bool = True,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.manifest = manifest
        self.fields = manifest.fields if fields is None else tuple(manifest.field(name) for name in fields)
        self._schema = manifest.fields
        self._shards = manifest.shards(split)
        self._cache = cache
        self._transform = transform
        self._ends = list(accumulate(shard.num_samples for shard in self._shards))
        self._converters = [(field, _converter(field, decode)) for field in self.fields]

    def __len__(self) -> int:
        """Returns the number of samples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        """Returns a sample.

        Raises:
            IndexError: The index is out of range.
            MeshError: The sample's shard cannot be opened; see `ShardCache.open`.
        """
        shard, row = self._at(index)
        sample: dict[str, Any] = {}
        for field, convert in self._converters:
            value = shard.columns[field.name][row].as_py()
            sample[field.name] = list(map(convert, value)) if field.repeated else convert(value)
        return self._transform(sample) if self._transform else sample

    def key(self, index: int) -> str:
        """Returns the key of a sample.

        Raises:
            IndexError, MeshError: As for `dataset[index]`.
        """
        shard, row = self._at(index)
        return str(shard.columns["_key"][row].as_py())

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of samples of each shard, in reading order."""
        return tuple(shard.num_samples for shard in self._shards)

    def iterable(self, **options: Any) -> "StoredIterable":
        """Returns the split as a `torch.utils.data.IterableDataset`.

        Args:
            **options: Arguments of `StoredIterable`: `shuffle`, `seed`, `rank`, `world_size` and `window`.

        Raises:
            InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
        """
        from deepseek.data.iterable import StoredIterable

        return StoredIterable(self, **options)

    def download(self, *, on_shard: Callable[[int, int], None] | None = None) -> None:
        """Brings all shards of the split into the cache, e.g. before processes are forked.

        Args:
            on_shard: Called after each shard, with the number of shards so far and in all.

        Raises:
            MeshError: A shard cannot be opened; see `ShardCache.open`.
        """
        for number, shard in enumerate(self._shards, 1):
            self._cache.open(shard, self._schema)
            if on_shard:
                on_shard(number, len(self._shards))

    def _at(self, index: int) -> tuple[OpenShard, int]:
        """Returns the shard that contains a sample, and the sample's row in the shard."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect_right(self._ends, index)
        shard = self._shards[number]
        return self._cache.open(shard, self._schema), index - self._ends[number] + shard.num_samples


def _converter(field: Field, decode: bool) -> Callable[[Any], Any]:
    """Returns the function that converts a stored value of a field."""
    if field.type == "label":
        return _Classes(field.labels)
    if decode and field.type == "image":
        return pixels
    if decode and field.type == "audio":
        return _frames
    return _unchanged


class _Classes:
    """Converts labels to class numbers. Labels that differ only in their Unicode form are equal."""

    def __init__(self, labels: Sequence[str]) -> None:
        from unicodedata import normalize

        self._numbers = {normalize("NFC", label): number for number, label in enumerate(labels)}
        self._normalize = normalize

    def __call__(self, label: str) -> int:
        number = self._numbers.get(label)
        return self._numbers[self._normalize("NFC", label)] if number is None else number


def _unchanged(value: Any) -> Any:
    return value


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    from deepseek.data.media import decode_image

    return np.array(decode_image(data))


def _frames(data: bytes) -> npt.NDArray[np.float32]:
    from deepseek.data.media import decode_audio

    return decode_audio(data)[0]
