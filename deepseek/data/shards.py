"""Samples, and the Parquet shards that hold them.

Design choices: small row groups (256 rows) so that a reader goes on from any row cheaply; encoded images and sound are
stored uncompressed (they are compressed already) and everything else as zstd; no timestamps, so equal samples give
equal bytes with the same version of pyarrow. Every row carries its own SHA-256, defined here and in docs/data.md and
independent of Parquet. System columns begin with `_`, which no field's name does.

It does not decide how large a shard is, nor where it lies.
"""

import hashlib
import io
import math
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataLoss, InvalidArgument
from deepseek.data import canonical_json, media
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample, check_key

SHARD_MEDIA_TYPE = "application/vnd.apache.parquet"
"""Media type of a shard."""
DEFAULT_SPLIT = "train"
ROWS_PER_GROUP = 256

_DIGEST_DOMAIN = b"deepseek.sample.v1\0"
_ARROW_TYPES = {
    "image": pa.large_binary(),
    "audio": pa.large_binary(),
    "bytes": pa.large_binary(),
    "text": pa.large_string(),
    "label": pa.large_string(),
    "integer": pa.int64(),
    "number": pa.float64(),
}


def sample_sha256(sample: Sample, fields: Sequence[Field]) -> str:
    """Computes a sample's digest.

    The digest is SHA-256 over `deepseek.sample.v1\\0`, key, split, and for each field in schema order its name, its
    type, the number of its values, and the values; every item is preceded by its length in bytes, and lengths and
    counts are unsigned 64-bit big-endian. Text is UTF-8, an integer 8 bytes of two's complement big-endian, a number 8
    bytes IEEE 754 big-endian.

    Args:
        sample: A sample that passed `check_sample`.
        fields: The schema.

    Returns:
        64 lower-case hexadecimal digits.

    >>> sample_sha256(Sample("k", "train", {"n": 1}), [Field("n", "integer")])[:16]
    'd9cc48ef3d8c7d1c'
    """
    digest = hashlib.sha256(_DIGEST_DOMAIN)

    def add(item: bytes) -> None:
        digest.update(struct.pack(">Q", len(item)))
        digest.update(item)

    add(sample.key.encode())
    add(sample.split.encode())
    digest.update(struct.pack(">Q", len(fields)))
    for field in fields:
        value = sample.values[field.name]
        values = value if field.repeated else [value]
        add(field.name.encode())
        add(field.type.encode())
        digest.update(struct.pack(">Q", len(values)))
        for one in values:
            add(_value_bytes(one, field.type))
    return digest.hexdigest()


def _value_bytes(value: Any, field_type: str) -> bytes:
    match field_type:
        case "text" | "label":
            return bytes(value.encode())
        case "integer":
            return struct.pack(">q", value)
        case "number":
            return struct.pack(">d", value)
        case _:
            return bytes(value)


def check_sample(sample: Sample, fields: Sequence[Field]) -> None:
    """Checks that a sample is whole and fits the schema; images and sound are decoded to prove it.

    Args:
        sample: The sample, from anyone.
        fields: The schema; it passed `check_schema`.

    Raises:
        InvalidArgument: With the field `samples[<key>].<field>`: BAD_KEY, BAD_SPLIT, UNKNOWN_FIELD, MISSING_FIELD,
            WRONG_TYPE (also for a number that is not finite), BAD_TEXT, UNKNOWN_LABEL, DAMAGED_IMAGE, DAMAGED_AUDIO,
            LENGTH_MISMATCH (repeated fields of different length).
    """
    check_key(sample.key, sample.split)
    path = f"samples[{sample.key}]"
    if unknown := sorted(set(sample.values) - {field.name for field in fields}):
        known = ", ".join(field.name for field in fields)
        message = f"{path} has the field {unknown[0][:80]!r}, which the schema has not; it has: {known}"
        raise InvalidArgument("UNKNOWN_FIELD", message, field=f"{path}.{unknown[0][:80]}")
    lengths: dict[str, int] = {}
    for field in fields:
        where = f"{path}.{field.name}"
        if field.name not in sample.values:
            raise InvalidArgument("MISSING_FIELD", f"{where} is missing", field=where)
        value = sample.values[field.name]
        if not field.repeated:
            _check_value(value, field, where)
            continue
        if not isinstance(value, list | tuple):
            message = f"{where} is repeated, so it needs a list, not {type(value).__name__}"
            raise InvalidArgument("WRONG_TYPE", message, field=where)
        for one in value:
            _check_value(one, field, where)
        lengths[field.name] = len(value)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        message = f"{path}: repeated fields must be equally long, but {counts}"
        raise InvalidArgument("LENGTH_MISMATCH", message, field=f"{path}.{list(lengths)[-1]}")


def _check_value(value: Any, field: Field, where: str) -> None:
    match field.type:
        case "image" | "audio" | "bytes":
            if not isinstance(value, bytes):
                _wrong_type(value, "bytes", where)
            if field.type == "image":
                media.check_image(value, field=where, name=where)
            elif field.type == "audio":
                media.check_audio(value, field=where, name=where)
        case "text" | "label":
            if not isinstance(value, str):
                _wrong_type(value, "text", where)
            if not canonical_json.is_unicode(value):
                raise InvalidArgument("BAD_TEXT", f"{where} is not valid Unicode", field=where)
            if field.type == "label" and unicodedata.normalize("NFC", value) not in field.label_set:
                known = ", ".join(field.labels[:50]) + (", …" if len(field.labels) > 50 else "")
                message = f"{where} is {value[:80]!r}, which is not a label of the field; its labels: {known}"
                raise InvalidArgument("UNKNOWN_LABEL", message, field=where)
        case "integer":
            if not isinstance(value, int) or isinstance(value, bool):
                _wrong_type(value, "an integer", where)
            if not -(1 << 63) <= value < 1 << 63:
                raise InvalidArgument("WRONG_TYPE", f"{where} does not fit 64 bits", field=where)
        case "number":
            if not isinstance(value, int | float) or isinstance(value, bool):
                _wrong_type(value, "a number", where)
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidArgument("WRONG_TYPE", f"{where} is {value}; it must be finite", field=where)
            if isinstance(value, int) and abs(value) > 1 << 53:
                raise InvalidArgument("WRONG_TYPE", f"{where} is not exact as a 64-bit float", field=where)


def _wrong_type(value: Any, expected: str, where: str) -> None:
    raise InvalidArgument("WRONG_TYPE", f"{where} needs {expected}, not {type(value).__name__}", field=where)


def encode_shard(samples: Sequence[Sample], fields: Sequence[Field]) -> bytes:
    """Writes samples as one Parquet file.

    Args:
        samples: At least one; each passed `check_sample`. They may belong to different splits.
        fields: The schema.

    Returns:
        The file; equal for equal samples in equal order.
    """
    schema = _arrow_schema(fields)
    columns: list[list[Any]] = [
        [sample.key for sample in samples],
        [sample.split for sample in samples],
        [sample_sha256(sample, fields) for sample in samples],
        *([sample.values[field.name] for sample in samples] for field in fields),
    ]
    table = pa.table([pa.array(column, item.type) for column, item in zip(columns, schema, strict=True)], schema=schema)
    encoded = {field.name for field in fields if field.type in ("image", "audio")}
    # Parquet names the leaf of a list column `<name>.list.element`.
    leaves = {item.name: item.name + (".list.element" if pa.types.is_list(item.type) else "") for item in schema}
    plain = {leaf for name, leaf in leaves.items() if name in encoded or name == "_sha256"}
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression={leaf: "NONE" if leaf in plain else "ZSTD" for leaf in leaves.values()},
        use_dictionary=[leaf for leaf in leaves.values() if leaf not in plain],
        write_statistics=False,  # the least and greatest image of a column would be copied into the footer
    )
    return sink.getvalue()


def read_shard(
    data: bytes | Path, fields: Sequence[Field], *, start: int = 0, verify: bool = False
) -> Iterator[Sample]:
    """Reads the samples of a shard in their stored order.

    Args:
        data: The file's bytes, or where it lies.
        fields: The schema.
        start: Rows to skip; whole row groups of them are not read.
        verify: Compute every sample's digest anew.

    Yields:
        The samples from `start` on.

    Raises:
        DataLoss: BLOB_DAMAGED: it is not a Parquet file, lacks a column of the schema, or a digest does not match.
    """
    schema = _arrow_schema(fields)
    with _open(data) as source:
        try:
            file = pq.ParquetFile(source)
            if not file.schema_arrow.equals(schema):
                raise DataLoss("BLOB_DAMAGED", "the shard's columns are not those of the data set's schema")
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataLoss("BLOB_DAMAGED", f"the shard is not a whole Parquet file: {str(error)[:200]}") from error
        position = 0
        for group, size in enumerate(sizes):
            if position + size > start:
                skip = max(0, start - position)
                try:
                    rows = file.read_row_group(group, use_threads=False).slice(skip).to_pylist()
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise DataLoss("BLOB_DAMAGED", f"the shard cannot be read: {str(error)[:200]}") from error
                for row in rows:
                    yield _to_sample(row, fields, verify)
            position += size


def _open(data: bytes | Path) -> Any:
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def _to_sample(row: dict[str, Any], fields: Sequence[Field], verify: bool) -> Sample:
    # The schema cannot keep nulls out of lists.
    if any(value is None or (isinstance(value, list) and None in value) for value in row.values()):
        raise DataLoss("BLOB_DAMAGED", "the shard has a row with a missing value")
    sample = Sample(row["_key"], row["_split"], {field.name: row[field.name] for field in fields})
    if verify and sample_sha256(sample, fields) != row["_sha256"]:
        raise DataLoss("BLOB_DAMAGED", f"sample {sample.key!r} does not match its digest")
    return sample


def _arrow_schema(fields: Sequence[Field]) -> pa.Schema:
    columns = [("_key", pa.large_string()), ("_split", pa.large_string()), ("_sha256", pa.large_string())]
    for field in fields:
        kind = _ARROW_TYPES[field.type]
        columns.append((field.name, pa.list_(kind) if field.repeated else kind))
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])
