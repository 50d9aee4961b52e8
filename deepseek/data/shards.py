"""Checks samples, and writes and reads the Parquet shards that hold them.

Row groups are small (256 rows), so a reader can start at any row cheaply. Image and audio files are stored as they are,
because they are already compressed; other fields are compressed with zstd. Shards contain no timestamps, so equal
samples give equal bytes, provided that the version of pyarrow is the same. Each row contains the SHA-256 digest of its
sample. `sample_sha256` and docs/data.md define this digest, which does not depend on Parquet. The names of system
columns begin with `_`; names of fields never do.
"""

import hashlib
import io
import math
import struct
import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common.errors import DataLoss, InvalidArgument
from deepseek.data import canonical_json
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample, check_key

SHARD_MEDIA_TYPE = "application/vnd.apache.parquet"
"""Media type of a shard."""
DEFAULT_SPLIT = "train"
ROWS_PER_GROUP = 256

_COPIED_BYTES = 16 * 1024
"""Values of up to this size are copied before they are hashed: a copy takes less time than a call of `update`."""
_LENGTH = struct.Struct(">Q")
_DIGEST_DOMAIN = b"deepseek.sample.v1\0"
# Names of pyarrow functions, not the functions themselves: so that ingest starts quickly, pyarrow, NumPy and Pillow
# are imported on first use.
_ARROW_TYPES = {
    "image": "large_binary",
    "audio": "large_binary",
    "bytes": "large_binary",
    "text": "large_string",
    "label": "large_string",
    "integer": "int64",
    "number": "float64",
}


def sample_sha256(sample: Sample, fields: Sequence[Field]) -> str:
    """Returns a sample's digest, 64 lower-case hexadecimal digits.

    The digest is the SHA-256 of the following items, in this order: the bytes `deepseek.sample.v1\\0`, the key, the
    split, the number of fields and then, for each field in schema order, the field's name, type, number of values, and
    values. Each key, split, name, type and value is preceded by its length in bytes. Text is encoded as UTF-8. Lengths
    and counts are unsigned 64-bit integers. Values of type `integer` are 64-bit integers in two's complement, and
    values of type `number` are 64-bit IEEE 754 numbers. All of these numbers are big-endian.

    Args:
        sample: Sample that passed `check_sample`.
        fields: Schema of the data set.

    >>> sample_sha256(Sample("k", "train", {"n": 1}), [Field("n", "integer")])[:16]
    'd9cc48ef3d8c7d1c'
    """
    digest, key, split = hashlib.sha256(_DIGEST_DOMAIN), sample.key.encode(), sample.split.encode()
    pending = [_LENGTH.pack(len(key)), key, _LENGTH.pack(len(split)), split, _LENGTH.pack(len(fields))]
    for field in fields:
        value = sample.values[field.name]
        values = value if field.repeated else (value,)
        pending += _field_head(field.name, field.type), _LENGTH.pack(len(values))
        for one in values:
            item = _value_bytes(one, field.type)
            pending.append(_LENGTH.pack(len(item)))
            if len(item) > _COPIED_BYTES:
                digest.update(b"".join(pending))
                digest.update(item)
                pending.clear()
            else:
                pending.append(item)
    digest.update(b"".join(pending))
    return digest.hexdigest()


@lru_cache
def _field_head(name: str, field_type: str) -> bytes:
    return b"".join(_LENGTH.pack(len(item)) + item for item in (name.encode(), field_type.encode()))


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


def check_sample(sample: Sample, fields: Sequence[Field], *, decodes: bool = True) -> None:
    """Checks that an untrusted sample is complete, that it conforms to the schema, and that its media can be decoded.

    Args:
        sample: Sample to check.
        fields: Schema that passed `check_schema`.
        decodes: Whether to decode images and audio. Otherwise, damaged media are not noticed.

    Raises:
        InvalidArgument: BAD_KEY, BAD_SPLIT, UNKNOWN_FIELD, MISSING_FIELD, WRONG_TYPE (also for a number that is
            NaN, infinite or out of range), BAD_TEXT, UNKNOWN_LABEL, DAMAGED_IMAGE, DAMAGED_AUDIO, or LENGTH_MISMATCH
            (repeated fields with different numbers of values). The error's field is `samples[<key>].<field>`.
    """
    check_key(sample.key, sample.split)
    path = f"samples[{sample.key}]"
    if unknown := sorted(sample.values.keys() - {field.name for field in fields}):
        known = ", ".join(field.name for field in fields)
        message = f"{path} has the field {unknown[0][:80]!r}; the schema has only the fields: {known}"
        raise InvalidArgument("UNKNOWN_FIELD", message, field=f"{path}.{unknown[0][:80]}")
    lengths: dict[str, int] = {}
    for field in fields:
        where = f"{path}.{field.name}"
        if field.name not in sample.values:
            raise InvalidArgument("MISSING_FIELD", f"{where} is missing; give it a value", field=where)
        value = sample.values[field.name]
        if not field.repeated:
            _check_value(value, field, where, decodes)
            continue
        if not isinstance(value, list | tuple):
            message = f"{where} is a repeated field; it must be a list, not {type(value).__name__}"
            raise InvalidArgument("WRONG_TYPE", message, field=where)
        for one in value:
            _check_value(one, field, where, decodes)
        lengths[field.name] = len(value)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        message = f"{path}: all repeated fields must have the same number of values, but {counts}"
        raise InvalidArgument("LENGTH_MISMATCH", message, field=f"{path}.{list(lengths)[-1]}")


def _check_value(value: Any, field: Field, where: str, decodes: bool) -> None:
    match field.type:
        case "image" | "audio" | "bytes":
            if not isinstance(value, bytes):
                _wrong_type(value, "bytes", where)
            if field.type == "image" and decodes:
                from deepseek.data import media

                media.check_image(value, field=where, name=where)
            elif field.type == "audio" and decodes:
                from deepseek.data import media

                media.check_audio(value, field=where, name=where)
        case "text" | "label":
            if not isinstance(value, str):
                _wrong_type(value, "text", where)
            if not canonical_json.is_unicode(value):
                raise InvalidArgument("BAD_TEXT", f"{where} is not valid Unicode", field=where)
            if field.type == "label" and unicodedata.normalize("NFC", value) not in field.label_set:
                known = ", ".join(label[:80] for label in field.labels[:10]) + (", …" if len(field.labels) > 10 else "")
                message = f"{where} is {value[:80]!r}, which is not a label of this field; the labels are: {known}"
                raise InvalidArgument("UNKNOWN_LABEL", message, field=where)
        case "integer":
            if not isinstance(value, int) or isinstance(value, bool):
                _wrong_type(value, "an integer", where)
            if not -(1 << 63) <= value < 1 << 63:
                raise InvalidArgument("WRONG_TYPE", f"{where} does not fit into 64 bits", field=where)
        case "number":
            if not isinstance(value, int | float) or isinstance(value, bool):
                _wrong_type(value, "a number", where)
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidArgument("WRONG_TYPE", f"{where} is {value}; it must be finite", field=where)
            if isinstance(value, int) and abs(value) > 1 << 53:
                message = f"{where} is {value}, which a 64-bit float cannot represent exactly"
                raise InvalidArgument("WRONG_TYPE", message, field=where)


def _wrong_type(value: Any, expected: str, where: str) -> None:
    raise InvalidArgument("WRONG_TYPE", f"{where} must be {expected}, not {type(value).__name__}", field=where)


def encode_shard(samples: Sequence[Sample], fields: Sequence[Field]) -> bytes:
    """Returns the bytes of a Parquet file that holds the samples. Equal samples in the same order give equal bytes.

    Args:
        samples: One or more samples that passed `check_sample`. They may belong to different splits.
        fields: Schema of the data set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _arrow_schema(fields)
    columns: list[list[Any]] = [
        [sample.key for sample in samples],
        [sample.split for sample in samples],
        [sample_sha256(sample, fields) for sample in samples],
        *([sample.values[field.name] for sample in samples] for field in fields),
    ]
    table = pa.table([pa.array(column, item.type) for column, item in zip(columns, schema, strict=True)], schema=schema)
    encoded = {field.name for field in fields if field.type in ("image", "audio")}
    # In Parquet, the values of a list column are in the leaf column `<name>.list.element`.
    leaves = {item.name: item.name + (".list.element" if pa.types.is_list(item.type) else "") for item in schema}
    plain = {leaf for name, leaf in leaves.items() if name in encoded or name == "_sha256"}
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression={leaf: "NONE" if leaf in plain else "ZSTD" for leaf in leaves.values()},
        use_dictionary=[leaf for leaf in leaves.values() if leaf not in plain],
        write_statistics=False,  # statistics would store the smallest and the largest image in the footer
    )
    return sink.getvalue()


def read_shard(
    data: bytes | Path,
    fields: Sequence[Field],
    *,
    start: int = 0,
    verify: bool = False,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Sample]:
    """Yields the samples of a shard in their stored order.

    Args:
        data: Content or path of the Parquet file.
        fields: Schema of the data set.
        start: Number of rows to skip. Row groups whose rows are all skipped are not read.
        verify: Whether to compute the digest of each sample and compare it with the stored digest.
        defaults: Values of the fields that the file may lack because an earlier release wrote it.

    Raises:
        DataLoss: BLOB_DAMAGED if the file is damaged or is not a Parquet file, if its columns differ from the schema,
            if a value is missing, or if a digest does not match.
    """
    import pyarrow as pa

    with _open(data) as source:
        file = _parquet_file(source, fields, defaults)
        stored = [field for field in fields if field.name in file.schema_arrow.names]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        position = 0
        for group, size in enumerate(sizes):
            if position + size > start:
                skip = max(0, start - position)
                try:
                    rows = file.read_row_group(group, use_threads=False).slice(skip).to_pylist()
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise DataLoss("BLOB_DAMAGED", f"the shard cannot be read: {str(error)[:200]}") from error
                for row in rows:
                    sample = _to_sample(row, stored, verify)
                    yield replace(sample, values={**defaults, **sample.values}) if defaults else sample
            position += size


def read_table(path: Path, fields: Sequence[Field]) -> Any:
    """Returns a shard as an Arrow table, whose columns are `_key`, `_split`, `_sha256` and the fields.

    Raises:
        DataLoss: BLOB_DAMAGED, as in `read_shard`; the digests of samples are not compared.
    """
    import pyarrow as pa

    with _open(path) as source:
        file = _parquet_file(source, fields)
        try:
            table = file.read(use_threads=False)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise DataLoss("BLOB_DAMAGED", f"the shard cannot be read: {str(error)[:200]}") from error
    # The schema rules out nulls as column values, but not as values within lists.
    lists = [table.column(field.name).combine_chunks() for field in fields if field.repeated]
    if any(column.flatten().null_count for column in lists):
        raise DataLoss("BLOB_DAMAGED", "the shard contains a row in which a value is missing")
    return table


def _parquet_file(source: Any, fields: Sequence[Field], optional: Container[str] = ()) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source)
        names = file.schema_arrow.names
        expected = [field for field in fields if field.name in names or field.name not in optional]
        if not file.schema_arrow.equals(_arrow_schema(expected)):
            raise DataLoss("BLOB_DAMAGED", "the shard's columns differ from the data set's schema")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataLoss("BLOB_DAMAGED", f"the shard is not a complete Parquet file: {str(error)[:200]}") from error
    return file


def _open(data: bytes | Path) -> Any:
    return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")


def _to_sample(row: dict[str, Any], fields: Sequence[Field], verify: bool) -> Sample:
    # The schema rules out nulls as column values, but not as values within lists.
    if any(value is None or (isinstance(value, list) and None in value) for value in row.values()):
        raise DataLoss("BLOB_DAMAGED", "the shard contains a row in which a value is missing")
    sample = Sample(row["_key"], row["_split"], {field.name: row[field.name] for field in fields})
    if verify and sample_sha256(sample, fields) != row["_sha256"]:
        raise DataLoss("BLOB_DAMAGED", f"sample {sample.key!r} does not match its digest")
    return sample


def _arrow_schema(fields: Sequence[Field]) -> Any:
    import pyarrow as pa

    columns = [("_key", pa.large_string()), ("_split", pa.large_string()), ("_sha256", pa.large_string())]
    for field in fields:
        kind = getattr(pa, _ARROW_TYPES[field.type])()
        columns.append((field.name, pa.list_(kind) if field.repeated else kind))
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])
