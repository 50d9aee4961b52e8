"""From a sample as it was received to one that may be stored, and the rule by which shards are cut.

A shard ends with the sample that brings it to SHARD_SAMPLES samples or SHARD_BYTES bytes. The rule looks at nothing but
the samples of the split in their order (never at time, messages or streams), so equal data is always cut the same way
and gives the same blobs. Changing it changes the digest of every data set that is uploaded anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shards import check_sample, sample_sha256

SHARD_SAMPLES = 1024
SHARD_BYTES = 32 << 20

ENVELOPE_BYTES = 512
"""Largest part of a message besides a sample or a schema: the cursor, or the rest of an upload."""

_SCALAR_BYTES = 8
_SHA256_CHARACTERS = 64


@dataclass(frozen=True)
class ReceivedSample:
    """A sample from anyone.

    Attributes:
        key: As in `Sample`.
        split: As in `Sample`.
        fields: Name and values of every field, in the order received; a value of no kind is None.
        sha256: The digest that the sender computed; empty if none.
    """

    key: str
    split: str
    fields: Sequence[tuple[str, list[Any]]]
    sha256: str = ""


def accept(received: ReceivedSample, fields: Sequence[Field]) -> Sample:
    """Checks a sample against the schema and its own digest.

    Raises:
        InvalidArgument: As `check_sample`; DUPLICATE_FIELD if a field is given twice; DIGEST_MISMATCH.
    """
    repeated = {field.name for field in fields if field.repeated}
    # One value stands for itself, none at all is missing; check_sample says what is wrong with more.
    values = {
        name: items if name in repeated or len(items) != 1 else items[0]
        for name, items in received.fields
        if items or name in repeated
    }
    sample = Sample(received.key, received.split, values)
    check_sample(sample, fields)
    path = f"samples[{sample.key}]"
    names = [name for name, _ in received.fields]
    if len(names) > len(fields):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument("DUPLICATE_FIELD", f"{path}.{twice} is given twice", field=f"{path}.{twice}")
    if received.sha256 and received.sha256 != (actual := sample_sha256(sample, fields)):
        message = f"{path} arrived with the digest {actual}, not the one its sender computed"
        raise InvalidArgument("DIGEST_MISMATCH", message, field=f"{path}.sha256")
    return sample


def num_bytes(sample: Sample) -> int:
    """The size of a sample by which shards are cut: its values, with 8 bytes for an integer or a number."""
    size = 0
    for value in sample.values.values():
        for item in value if isinstance(value, list) else (value,):
            size += len(item) if isinstance(item, bytes | str) else _SCALAR_BYTES
    return size


def message_bytes(sample: Sample, fields: Sequence[Field]) -> int:
    """The encoded size of a sample in a message of ReadSamples, in bytes.

    Args:
        sample: A sample that passed `check_sample`.
        fields: The schema.
    """
    size = _framed(len(sample.key.encode())) + _framed(len(sample.split)) + _framed(_SHA256_CHARACTERS)
    for field in fields:
        value = sample.values[field.name]
        values = sum(_framed(_value_bytes(one, field.type)) for one in (value if field.repeated else [value]))
        size += _framed(_framed(len(field.name)) + values)
    return _framed(size)


def _value_bytes(value: Any, field_type: str) -> int:
    match value:
        case str():
            return _framed(len(value.encode()))
        case bytes():
            return _framed(len(value))
        case int() if field_type == "integer":
            return 1 + _varint(value % (1 << 64))
        case _:
            return 1 + _SCALAR_BYTES


def _framed(size: int) -> int:
    """The size including tag and length."""
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def fills_shard(num_samples: int, size: int) -> bool:
    """Whether samples of this number and size (by `num_bytes`) make a full shard."""
    return num_samples >= SHARD_SAMPLES or size >= SHARD_BYTES
