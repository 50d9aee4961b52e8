"""Writes samples as Parquet files, WebDataset archives or folders of files.

Each export also contains `dataset.json`, the schema. With it, importing an export gives equal samples.
"""

import contextlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.interchange.kinds import suffix_of
from deepseek.interchange.opening import DESCRIPTION
from deepseek.interchange.packages import require
from deepseek.interchange.schema import fields_to_json
from deepseek.interchange.tables import KEY_COLUMN, SPLIT_COLUMN

FILE_SAMPLES = 10_000
"""Maximum number of samples in a Parquet file or archive."""
FILE_BYTES = 512 << 20
"""Size after which a new Parquet file or archive is begun."""

_BATCH_SAMPLES, _BATCH_BYTES = 256, 16 << 20
_FILES = ("image", "audio", "bytes")
_MEDIA = {"image": "Image", "audio": "Audio"}
_DTYPES = {"text": "string", "label": "string", "integer": "int64", "number": "float64", "bytes": "binary"}


class Writer(ABC):
    """Writes samples into a folder. Not thread-safe.

    Args:
        folder: Existing folder.
        fields: Schema of the samples.
    """

    def __init__(self, folder: Path, fields: Sequence[Field]) -> None:
        self._folder, self._fields = folder, tuple(fields)

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Writes a sample; the writer may hold it back until `close`."""

    @abstractmethod
    def close(self) -> None:
        """Completes all files."""


def export(
    samples: Iterable[Sample],
    fields: Sequence[Field],
    folder: Path,
    form: str,
    *,
    on_sample: Callable[[int], None] = lambda number: None,
) -> int:
    """Writes samples into a folder.

    Args:
        samples: Samples, in the order in which they are written.
        fields: Schema of the samples.
        folder: Folder, which is created; it must be empty if it exists.
        form: One of FORMATS.
        on_sample: Called for each sample, with the number of samples written so far.

    Returns:
        Number of samples.

    Raises:
        FailedPrecondition: OUTPUT_EXISTS if the folder is not empty; PACKAGE_MISSING.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        message = f"{folder} is not empty; choose another folder, or empty this one"
        raise FailedPrecondition("OUTPUT_EXISTS", message, field="folder")
    number = 0
    with contextlib.closing(FORMATS[form](folder, fields)) as writer:
        for number, sample in enumerate(samples, 1):
            writer.add(sample)
            on_sample(number)
    description = {"fields": fields_to_json(fields), "num_samples": number}
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return number


class ParquetWriter(Writer):
    """`<split>-<n>.parquet`, with metadata by which the Hugging Face library knows images, sounds and classes."""

    def __init__(self, folder: Path, fields: Sequence[Field]) -> None:
        super().__init__(folder, fields)
        self._arrow, self._parquet = (require(name, "Parquet files") for name in ("pyarrow", "pyarrow.parquet"))
        self._schema = self._arrow_schema()
        self._files: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._pending: dict[str, list[Sample]] = {}
        self._bytes: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        pending = self._pending.setdefault(sample.split, [])
        pending.append(sample)
        self._bytes[sample.split] = self._bytes.get(sample.split, 0) + _num_bytes(sample)
        if len(pending) >= _BATCH_SAMPLES or self._bytes[sample.split] >= _BATCH_BYTES:
            self._flush(sample.split)

    def close(self) -> None:
        for split in list(self._pending):
            self._flush(split)
        for _, file in self._files.values():
            file.close()

    def _flush(self, split: str) -> None:
        samples = self._pending.pop(split)
        self._bytes[split] = 0
        rows = [self._row(sample) for sample in samples]
        number, file = self._files.get(split, (0, None))
        if file is None or self._counts[split] + len(rows) > FILE_SAMPLES:
            if file is not None:
                file.close()
                number += 1
            path = self._folder / f"{split}-{number:05}.parquet"
            file = self._parquet.ParquetWriter(path, self._schema, compression="zstd", write_statistics=False)
            self._files[split], self._counts[split] = (number, file), 0
        self._counts[split] += len(rows)
        file.write_table(self._arrow.Table.from_pylist(rows, self._schema))

    def _row(self, sample: Sample) -> dict[str, Any]:
        row: dict[str, Any] = {KEY_COLUMN: sample.key, SPLIT_COLUMN: sample.split}
        for one in self._fields:
            value = sample.values[one.name]
            row[one.name] = [self._cell(item, one) for item in value] if one.repeated else self._cell(value, one)
        return row

    def _cell(self, value: Any, one: Field) -> Any:
        return {"bytes": value, "path": None} if one.type in ("image", "audio") else value

    def _arrow_schema(self) -> Any:
        arrow = self._arrow
        media = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        kinds = {"image": media, "audio": media, "bytes": arrow.binary(), "integer": arrow.int64()}
        kinds |= {"number": arrow.float64(), "text": arrow.string(), "label": arrow.string()}
        columns = [(KEY_COLUMN, arrow.string()), (SPLIT_COLUMN, arrow.string())]
        columns += [
            (one.name, arrow.list_(kinds[one.type]) if one.repeated else kinds[one.type]) for one in self._fields
        ]
        features = {name: {"dtype": "string", "_type": "Value"} for name in (KEY_COLUMN, SPLIT_COLUMN)}
        features |= {one.name: _feature(one) for one in self._fields}
        return arrow.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _feature(one: Field) -> dict[str, Any]:
    """Returns the description of a column for the Hugging Face library."""
    if one.type in _MEDIA:
        feature: dict[str, Any] = {"_type": _MEDIA[one.type]}
    else:
        feature = {"dtype": _DTYPES[one.type], "_type": "Value"}
    return {"feature": feature, "_type": "Sequence"} if one.repeated else feature


class WebDatasetWriter(Writer):
    """`<split>-<n>.tar`: `<i>.<field>.<extension>` for files, and `<i>.json` for the key and all other values."""

    def __init__(self, folder: Path, fields: Sequence[Field]) -> None:
        super().__init__(folder, fields)
        self._archives: dict[str, tarfile.TarFile] = {}
        self._counts: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        archive, number = self._archive(sample), self._counts[sample.split]
        files, others = _divided(sample, self._fields)
        document = {KEY_COLUMN: sample.key, SPLIT_COLUMN: sample.split, **others}
        self._write(archive, f"{number:09}.json", _json(document))
        for one, index, data in files:
            name = f"{one.name}-{index}" if one.repeated else one.name
            self._write(archive, f"{number:09}.{name}.{suffix_of(data, one.type)}", data)
        self._counts[sample.split] += 1
        self._bytes[sample.split] += _num_bytes(sample)
        archive.members = []  # type: ignore[attr-defined]  # otherwise, the archive keeps every member in memory

    def close(self) -> None:
        for archive in self._archives.values():
            archive.close()

    def _archive(self, sample: Sample) -> tarfile.TarFile:
        split = sample.split
        count = self._counts.setdefault(split, 0)
        is_full = count and (count % FILE_SAMPLES == 0 or self._bytes[split] >= FILE_BYTES)
        if split not in self._archives or is_full:
            if split in self._archives:
                self._archives[split].close()
            path = self._folder / f"{split}-{count:09}.tar"
            self._archives[split] = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self._bytes[split] = 0
        return self._archives[split]

    def _write(self, archive: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


class FolderWriter(Writer):
    """`<split>/<i>.<field>.<extension>` for files, and `samples.jsonl` for keys and all other values."""

    def __init__(self, folder: Path, fields: Sequence[Field]) -> None:
        super().__init__(folder, fields)
        self._lines = (folder / "samples.jsonl").open("wb")
        self._number = 0

    def add(self, sample: Sample) -> None:
        files, others = _divided(sample, self._fields)
        (self._folder / sample.split).mkdir(exist_ok=True)
        paths: dict[str, Any] = {one.name: [] for one in self._fields if one.type in _FILES and one.repeated}
        for one, index, data in files:
            name = f"{one.name}-{index}" if one.repeated else one.name
            path = f"{sample.split}/{self._number:09}.{name}.{suffix_of(data, one.type)}"
            (self._folder / path).write_bytes(data)
            if one.repeated:
                paths[one.name].append(path)
            else:
                paths[one.name] = path
        self._lines.write(_json({KEY_COLUMN: sample.key, SPLIT_COLUMN: sample.split, **others, **paths}) + b"\n")
        self._number += 1

    def close(self) -> None:
        self._lines.close()


FORMATS: dict[str, Callable[[Path, Sequence[Field]], Writer]] = {
    "parquet": ParquetWriter,
    "webdataset": WebDatasetWriter,
    "folders": FolderWriter,
}
"""Formats of exports."""


def _divided(sample: Sample, fields: Sequence[Field]) -> tuple[Sequence[tuple[Field, int, bytes]], Mapping[str, Any]]:
    """Returns the values that become files, each with its field and position, and all others by field name."""
    files = [
        (one, index, item)
        for one in fields
        if one.type in _FILES
        for index, item in enumerate(sample.values[one.name] if one.repeated else (sample.values[one.name],))
    ]
    return files, {one.name: sample.values[one.name] for one in fields if one.type not in _FILES}


def _num_bytes(sample: Sample) -> int:
    values = (one for value in sample.values.values() for one in (value if isinstance(value, list) else (value,)))
    return sum(len(one) if isinstance(one, str | bytes) else 8 for one in values)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()
