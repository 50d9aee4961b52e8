"""Writes a quarantine as files that people can repair, and repairs a quarantine from files.

`write_quarantine` writes a folder that can be imported: `samples.jsonl`, with files beside it. `Repair` yields the
content of a version after a repair: its samples, the repaired samples, and the samples that are still invalid.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.key_set import KeySet
from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.interchange.conversion import Converter
from deepseek.interchange.inference import infer
from deepseek.interchange.kinds import suffix_of
from deepseek.interchange.opening import DESCRIPTION
from deepseek.interchange.schema import Wishes, fields_to_json
from deepseek.interchange.source import Row, Source
from deepseek.interchange.splits import Splitter
from deepseek.interchange.tables import KEY_COLUMN, SPLIT_COLUMN

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from protos.job.v1 import job_pb2
    from protos.registry.v1 import registry_pb2

TABLE = "samples.jsonl"
POSITION_COLUMN, UNREAD_COLUMN = "_position", "_unread"
"""Columns of the table: the position in the quarantine, and content that could not be read as values of fields. A row
that still has such content is not repaired."""

_NOTES = ("_place", "_reason", "_message")


def write_quarantine(rejected: Iterable[Rejected], fields: Sequence[Field], folder: Path) -> int:
    """Writes invalid samples into a folder, and returns their number.

    Args:
        rejected: Samples with their values.
        fields: Schema of the data set.
        folder: Folder, which is created; it must be empty if it exists.

    Raises:
        FailedPrecondition: OUTPUT_EXISTS if the folder is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        message = f"{folder} is not empty; choose another folder, or empty this one"
        raise FailedPrecondition("OUTPUT_EXISTS", message, field="out")
    by_name = {one.name: one for one in fields}
    number = 0
    with (folder / TABLE).open("w", encoding="utf-8") as table:
        for one in rejected:
            table.write(json.dumps(_document(one, by_name, folder), ensure_ascii=False) + "\n")
            number += 1
    description = json.dumps({"fields": fields_to_json(fields), "num_samples": number}, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(description + "\n", encoding="utf-8")
    return number


def _document(one: Rejected, fields: dict[str, Field], folder: Path) -> dict[str, Any]:
    values, unread = dict[str, Any](), dict[str, Any]()
    for number, (name, items) in enumerate(one.values.items()):
        field = fields.get(name)
        # The name of a field that the schema lacks may be anything, and is not used in a path.
        stem = f"{one.position:06}.{name if field else f'unread{number}'}"
        shown = [
            _cell(item, field, folder / (stem if len(items) == 1 else f"{stem}-{i}")) for i, item in enumerate(items)
        ]
        is_read = field and not any(isinstance(item, bytes) and field.type in _TEXTS for item in items)
        cell = shown if len(shown) != 1 or (field and field.repeated) else shown[0]
        (values if is_read else unread)[name] = cell
    if not one.key:
        unread["key"] = ""
    if not one.values:
        unread["sample"] = one.place
    notes = dict(zip(_NOTES, (one.place, one.reason, one.message), strict=True))
    own = {POSITION_COLUMN: one.position, KEY_COLUMN: one.key, SPLIT_COLUMN: one.split, **notes}
    return {**own, **values, **({UNREAD_COLUMN: unread} if unread else {})}


_TEXTS = ("text", "label", "integer", "number")


def _cell(value: Any, field: Field | None, path: Path) -> Any:
    if isinstance(value, bytes):
        path = path.with_name(f"{path.name}.{suffix_of(value, field.type if field else '')}")
        path.write_bytes(value)
        return path.name
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def repair(
    mesh: "Mesh",
    version: "registry_pb2.DatasetVersion",
    source: Source,
    wishes: Wishes | None = None,
    *,
    on_key_taken: Callable[[Sequence[Rejected]], None] = lambda rejected: None,
    on_repeated: Callable[[Sequence[Rejected]], None] = lambda rejected: None,
    on_quarantine: Callable[[Iterator[Rejected]], None] = lambda rejected: None,
    on_sample: Callable[[int], None] | None = None,
    on_change: "Callable[[job_pb2.Job], None] | None" = None,
) -> "registry_pb2.DatasetVersion":
    """Makes a version that consists of the samples of another one and of repaired samples.

    The repaired samples leave the quarantine. The old version does not change, and is a source of the new one.

    Args:
        mesh: The mesh.
        version: The version whose quarantine is repaired.
        source: See `Repair`.
        wishes: See `Repair`.
        on_key_taken: Called with `Repair.key_taken`.
        on_repeated: Called with `Repair.repeated`.
        on_quarantine: Called with the samples that are still invalid, without values.
        on_sample: Called for each sample, with the number of samples sent so far.
        on_change: Called with each update of the commit job.

    Raises:
        FailedPrecondition: NOTHING_REPAIRED.
        MeshError: An error of `Datasets.upload`.
    """
    from deepseek.client.samples import read_samples

    content = mesh.datasets.manifest(version)
    repaired = Repair(
        lambda: read_samples(mesh, version, content),
        partial(mesh.datasets.quarantined, version.name),
        content.fields,
        source,
        wishes or Wishes(),
    )

    def settle(rejected: Iterator[Rejected]) -> None:
        repaired.check()
        on_key_taken(repaired.key_taken)
        on_repeated(repaired.repeated)
        on_quarantine(rejected)

    return mesh.datasets.upload(
        version.name.split("/")[1],
        content.fields,
        repaired,
        quarantine=True,
        sources=[version.name],
        on_quarantine=settle,
        on_sample=on_sample,
        on_change=on_change,
    )


class Repair(Iterable[Sample | Rejected]):
    """The content of a version after a repair. It can be iterated again, so that an interrupted upload resumes.

    Args:
        samples: Function that returns the samples of the version.
        rejected: Function that returns the quarantine of the version; its keyword argument `values` says whether the
            values are needed, too.
        fields: Schema of the version.
        source: Files with repaired samples: a folder that `write_quarantine` wrote, or the files that were imported.
            A row belongs to the invalid sample with its position, its key or, failing that, its place.
        wishes: Key column and values for missing cells.

    Attributes:
        num_repaired: Number of repaired samples that the last iteration has yielded.
        key_taken: Repaired rows that the last iteration has left in quarantine because another sample has their key,
            without values.
        repeated: Valid rows that the last iteration has ignored because an earlier row had repaired the same sample,
            without values.

    Raises:
        FailedPrecondition: NOTHING_REPAIRED if no row of the source is a valid sample that belongs to the quarantine.
    """

    def __init__(
        self,
        samples: Callable[[], Iterator[Sample]],
        rejected: Callable[..., Iterator[Rejected]],
        fields: tuple[Field, ...],
        source: Source,
        wishes: Wishes,
    ) -> None:
        self._samples, self._rejected, self._source = samples, rejected, source
        self._wishes = replace(wishes, fields=fields)
        self._plan = infer(source, self._wishes)
        self._by_position, self._by_key = dict[str, Rejected](), dict[str, Rejected]()
        for one in rejected(values=False):
            self._by_position[str(one.position)] = one
            for name in filter(None, (one.key, one.place)):
                self._by_key.setdefault(name, one)
        self.num_repaired = 0
        self.key_taken: Sequence[Rejected] = ()
        self.repeated: Sequence[Rejected] = ()
        self._problem = "no new row has the key or place of a quarantined sample"
        if next(self._repaired(), None) is None:
            self.check()

    def check(self) -> None:
        """Raises NOTHING_REPAIRED if the last iteration has ended without yielding a repaired sample."""
        if not self.num_repaired:
            raise FailedPrecondition("NOTHING_REPAIRED", f"nothing is repaired: {self._problem}", field="source")

    def __iter__(self) -> Iterator[Sample | Rejected]:
        """Yields the samples of the version, the repaired ones, and the samples that are still invalid."""
        repaired, taken, repeated = dict[int, str](), dict[int, Rejected](), list[Rejected]()
        with KeySet() as keys:
            for sample in self._samples():
                keys.add(sample.key)
                yield sample
            for position, sample in self._repaired():
                if earlier := repaired.get(position):
                    message = f"{sample.place}: {earlier} repairs the same sample; keep one row per sample"
                    repeated.append(Rejected(sample.key, sample.place, "DUPLICATE_KEY", message))
                elif keys.add(sample.key):
                    repaired[position] = sample.place
                    taken.pop(position, None)
                    yield sample
                else:
                    self._problem = f"{sample.place}: another sample has the key {sample.key!r}; change this key"
                    taken[position] = Rejected(sample.key, sample.place, "DUPLICATE_KEY", self._problem)
        self.num_repaired, self.key_taken, self.repeated = len(repaired), list(taken.values()), repeated
        yield from (one for one in self._rejected(values=True) if one.position not in repaired)

    def _repaired(self) -> Iterator[tuple[int, Sample]]:
        """Yields the valid rows that belong to an invalid sample, each with the position of that sample."""
        converter = Converter(self._source, self._plan, self._wishes, Splitter())
        for row in self._source.rows():
            if isinstance(row, Rejected):
                continue
            values = {name: value for name, value in row.values.items() if name not in (*_NOTES, POSITION_COLUMN)}
            unread = values.pop(UNREAD_COLUMN, None) not in (None, "", "{}")
            position = row.values.get(POSITION_COLUMN)
            old = self._by_position.get(str(position)) if position is not None else self._of_source(converter, row)
            if old is None:
                continue
            if unread:
                self._problem = f"{row.place} still has {UNREAD_COLUMN}; move its content into the fields"
                continue
            split = row.split if position is not None else old.split or row.split
            try:
                sample = converter.convert(replace(row, split=split, values=values))
                converter.check(sample, decodes=True)
            except InvalidArgument as error:
                problem = error.message.removeprefix(f"samples[{row.key}].")
                self._problem = problem if problem.startswith(row.place) else f"{row.place}: {problem}"
                continue
            yield old.position, sample

    def _of_source(self, converter: Converter, row: Row) -> Rejected | None:
        return self._by_key.get(converter.key(row)) or self._by_key.get(row.place)
