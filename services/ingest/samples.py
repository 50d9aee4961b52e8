"""Checks received samples, and decides where each shard ends.

A shard ends with the sample that brings it to SHARD_SAMPLES samples or SHARD_BYTES bytes. This rule depends only on the
split's samples and their order, not on timing, messages or streams, so equal data results in identical blobs. If the
rule changed, a data set uploaded again would get a different digest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument, MeshError
from deepseek.data.manifest import Field
from deepseek.data.quarantine import REASON
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import check_sample, sample_sha256

SHARD_SAMPLES = 1024
SHARD_BYTES = 32 << 20

ENVELOPE_BYTES = 512
"""Bytes reserved in a message for everything except its sample or schema, e.g. for a cursor or the other fields of an
upload."""

_SCALAR_BYTES = 8
_SHA256_CHARACTERS = 64
_FRAME_BYTES = 64
"""Upper bound, in bytes, of the overhead of a value in a message, and of half the overhead of a field with its name."""


@dataclass(frozen=True)
class ReceivedSample:
    """A sample that has not been checked yet.

    Attributes:
        key: See `Sample`.
        split: See `Sample`.
        fields: Name and values of every field, in the order received. A value is None if the message leaves its
            `kind` unset.
        sha256: Digest computed by the sender; empty if the sender computed none.
        place: Place from which the sender read the sample; may be empty.
    """

    key: str
    split: str
    fields: Sequence[tuple[str, list[Any]]]
    sha256: str = ""
    place: str = ""

    @classmethod
    def of(cls, sample: Sample) -> "ReceivedSample":
        """Returns a valid sample as it was received."""
        values = [(name, value if isinstance(value, list) else [value]) for name, value in sample.values.items()]
        return cls(sample.key, sample.split, values, place=sample.place)

    def joined_values(self) -> dict[str, list[Any]]:
        """Returns the values by field. The values of a field that appears twice are joined."""
        values: dict[str, list[Any]] = {}
        for name, items in self.fields:
            values.setdefault(name, []).extend(items)
        return values

    def rejected(self, error: MeshError) -> Rejected:
        """Returns the sample with the error that makes it invalid."""
        return Rejected.from_error(self.key, self.place, error, self.split, self.joined_values())


Received = ReceivedSample | Rejected
"""A sample that the service is to check, or one that the sender considers invalid."""


def accept(received: ReceivedSample, fields: Sequence[Field]) -> Sample:
    """Checks a sample against the schema and against the digest sent with it, and returns the sample.

    Raises:
        InvalidArgument: A reason of `check_sample`; DUPLICATE_FIELD if a field appears twice; DIGEST_MISMATCH.
    """
    repeated = {field.name for field in fields if field.repeated}
    # A non-repeated field gets its only value, or is left out if it has none. check_sample rejects all other mistakes.
    values = {
        name: items if name in repeated or len(items) != 1 else items[0]
        for name, items in received.fields
        if items or name in repeated
    }
    sample = Sample(received.key, received.split, values, received.place)
    check_sample(sample, fields)
    path = f"samples[{sample.key}]"
    names = [name for name, _ in received.fields]
    if len(names) > len(fields):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{path}.{twice} appears twice; send each field once"
        raise InvalidArgument("DUPLICATE_FIELD", message, field=f"{path}.{twice}")
    if received.sha256 and received.sha256 != (actual := sample_sha256(sample, fields)):
        message = f"{path} has the digest {actual}, but the sender computed {received.sha256}; send the sample again"
        raise InvalidArgument("DIGEST_MISMATCH", message, field=f"{path}.sha256")
    return sample


def stated(rejected: Rejected, *, has_quarantine: bool) -> Rejected:
    """Returns a sample that the sender considers invalid.

    Raises:
        InvalidArgument: NO_QUARANTINE if the upload has none; BAD_VALUE if the reason is not a reason code.
    """
    where = f"samples[{rejected.key}].rejection"
    if not has_quarantine:
        message = f"samples[{rejected.key}] has a rejection; create the upload with `quarantine` to keep it"
        raise InvalidArgument("NO_QUARANTINE", message, field=where)
    if not REASON.fullmatch(rejected.reason):
        rule = "1 to 63 of A-Z, 0-9 and _, starting with a letter"
        message = f"{rejected.reason[:80]!r} is not a reason code; use {rule}"
        raise InvalidArgument("BAD_VALUE", message, field=f"{where}.reason")
    return rejected


def num_bytes(sample: Sample) -> int:
    """Returns how much a sample counts towards a full shard: the size of its values, counting 8 bytes per number."""
    size = 0
    for value in sample.values.values():
        for item in value if isinstance(value, list) else (value,):
            size += len(item) if isinstance(item, bytes | str) else _SCALAR_BYTES
    return size


def message_bytes(sample: Sample, fields: Sequence[Field]) -> int:
    """Returns the encoded size of a sample in a ReadSamples message, in bytes.

    Args:
        sample: Sample that has passed `check_sample`.
        fields: Schema.
    """
    size = _framed(len(sample.key.encode())) + _framed(len(sample.split)) + _framed(_SHA256_CHARACTERS)
    for field in fields:
        value = sample.values[field.name]
        values = sum(_framed(_value_bytes(one, field.type)) for one in (value if field.repeated else [value]))
        size += _framed(_framed(len(field.name)) + values)
    return _framed(size)


def surely_fits(sample: Sample, size: int, limit: int) -> bool:
    """Returns whether a sample certainly fits into a ReadSamples message. Much faster than `message_bytes`.

    Args:
        sample: Sample that has passed `check_sample`.
        size: The sample's `num_bytes`, which counts characters of text; UTF-8 needs at most 4 bytes for each.
        limit: Maximum encoded size in bytes.
    """
    num_values = sum(len(value) if isinstance(value, list) else 1 for value in sample.values.values())
    return 4 * (size + len(sample.key)) + _FRAME_BYTES * (num_values + 2 * len(sample.values) + 4) <= limit


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
    """Returns the encoded size of a protobuf field with a payload of this size, including its tag and length."""
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def fills_shard(num_samples: int, size: int) -> bool:
    """Returns whether this many samples, whose sizes (see `num_bytes`) add up to `size`, make a full shard."""
    return num_samples >= SHARD_SAMPLES or size >= SHARD_BYTES
