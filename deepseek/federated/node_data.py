"""A node's own data: imported once into a folder of the worker, in the form of a data set version.

A source is a folder, a file of any kind that `deepseek dataset import` reads, or `mesh:NAME:VERSION`, a data set
version of the mesh that the node's own mesh file names. The data is checked against the fields of the recipe. Samples
that do not fit, e.g. because their label is unknown to the recipe, are kept aside with the reason and counted. An
import is repeated if the source has changed.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from common.artifacts import ArtifactStore, open_store
from common.errors import InvalidArgument
from common.files import disk_error
from deepseek.data.datasets import read_samples
from deepseek.data.manifest import MEDIA_TYPE, DatasetManifest, Field, Shard
from deepseek.data.quarantine import QUARANTINE_FIELDS, QUARANTINE_SPLIT, to_row
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import DEFAULT_SPLIT, SHARD_MEDIA_TYPE, check_sample, encode_shard
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.schema import Wishes, fields_to_json
from deepseek.privacy.budgeted import has_budget

TENANT = "node"
"""Tenant in the worker's store."""

MESH = "mesh:"
"""Prefix of a source that is a data set version."""

_SHARD_SAMPLES, _SHARD_BYTES = 1024, 32 << 20
_NUM_KEPT = 4
_INDEX = "import.json"


@dataclass(frozen=True)
class NodeData:
    """The part of a node's data that fits the recipe.

    Attributes:
        store: Store that holds the shards, for the tenant TENANT.
        manifest: The samples by split, and those that are kept aside.
        split: Split to train on.
        rejected: Number of samples that are kept aside, by reason.
    """

    store: ArtifactStore
    manifest: DatasetManifest
    split: str
    rejected: Mapping[str, int]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of samples that are kept aside, as figures of a round."""
        return {
            "num_rejected": float(sum(self.rejected.values())),
            "num_unknown_labels": float(self.rejected.get("UNKNOWN_LABEL", 0)),
        }


def open_data(
    source: str, fields: Sequence[Field], split: str, folder: Path, *, ignore_budget: bool = False
) -> NodeData:
    """Opens a node's data, and imports it first if this has not been done or if the source has changed.

    Args:
        source: A path or `mesh:NAME:VERSION`.
        fields: Fields that the data must have.
        split: Name of the training split. If the data has only one split, that one is used.
        folder: Folder of the worker that holds imports. The last four are kept.
        ignore_budget: Whether to open a data set version whose data set has a privacy budget.

    Raises:
        FailedPrecondition: DATASET_HAS_BUDGET, unless `ignore_budget` is set.
        InvalidArgument: BAD_SOURCE; BAD_SCHEMA if a data set version lacks a field; NO_EXAMPLES if no sample fits.
        MeshError: The source cannot be read, or the disk is full.
    """
    version = None
    if source.startswith(MESH):
        version = _MeshVersion.find(source.removeprefix(MESH), ignore_budget=ignore_budget)
    signature = version.manifest_sha256 if version else _signature(Path(source))
    key = hashlib.sha256(json.dumps([source, signature, fields_to_json(fields)]).encode()).hexdigest()
    target = folder / key
    try:
        if not (target / _INDEX).exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = Path(mkdtemp(dir=folder, prefix="new-"))
            try:
                _import(version.samples(fields) if version else _local_samples(source, fields), fields, new, source)
                new.replace(target)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            _drop_old(folder)
        index = json.loads((target / _INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise disk_error(error, folder, "files of the worker") from error
    store = open_store(_url(target), make=False)
    manifest = DatasetManifest.from_bytes(store.read(TENANT, index["manifest"]))
    return NodeData(store, manifest, _training_split(manifest, split, source), index["rejected"])


@dataclass
class _Shards:
    """Writes samples to shards.

    Attributes:
        shards: Shards by split.
        rejected: Number of rejected samples, by reason.
        problem: Message of the first rejection.
    """

    store: ArtifactStore
    fields: Sequence[Field]
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    problem: str = ""
    _pending: dict[str, list[Sample]] = field(default_factory=dict)
    _sizes: Counter[str] = field(default_factory=Counter)

    def add(self, found: Sample | Rejected) -> None:
        if isinstance(found, Rejected):
            self.problem = self.problem or f"{found.reason}: {found.message}"
            self.rejected[found.reason] += 1
            found = to_row(replace(found, position=self.rejected.total()))
        pending = self._pending.setdefault(found.split, [])
        pending.append(found)
        self._sizes[found.split] += _num_bytes(found.values)
        if len(pending) >= _SHARD_SAMPLES or self._sizes[found.split] >= _SHARD_BYTES:
            self._write(found.split)

    def manifest(self) -> DatasetManifest:
        """Writes the last shards, and returns the manifest."""
        for split in sorted(self._pending):
            self._write(split)
        quarantine = tuple(self.shards.pop(QUARANTINE_SPLIT, ()))
        return DatasetManifest(tuple(self.fields), {name: tuple(one) for name, one in self.shards.items()}, quarantine)

    def _write(self, split: str) -> None:
        samples = self._pending.pop(split)
        fields = QUARANTINE_FIELDS if split == QUARANTINE_SPLIT else self.fields
        artifact = self.store.put(TENANT, encode_shard(samples, fields), SHARD_MEDIA_TYPE)
        self.shards.setdefault(split, []).append(Shard(artifact.sha256, artifact.size_bytes, len(samples)))
        self._sizes[split] = 0


def _import(samples: Iterator[Sample | Rejected], fields: Sequence[Field], folder: Path, source: str) -> None:
    store = open_store(_url(folder))
    shards = _Shards(store, fields)
    for found in samples:
        shards.add(found)
    manifest = shards.manifest()
    if not manifest.splits:
        why = f"none of its {shards.rejected.total()} samples fits the fields of the run; {shards.problem}"
        message = f"{source} has no usable examples: {why if shards.problem else 'it is empty'}"
        raise InvalidArgument("NO_EXAMPLES", message, field="data")
    artifact = store.put(TENANT, manifest.to_bytes(), MEDIA_TYPE)
    index = {"manifest": artifact.sha256, "rejected": dict(shards.rejected), "source": source}
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _local_samples(source: str, fields: Sequence[Field]) -> Iterator[Sample | Rejected]:
    rejected: list[Rejected] = []
    found = Import(
        open_source(source), Wishes(fields=tuple(fields)), on_rejected=lambda number, one: rejected.append(one)
    )
    try:
        for sample in found:
            yield from rejected
            rejected.clear()
            yield sample
    except InvalidArgument as error:
        if error.reason != "NO_VALID_SAMPLES":  # reported as NO_EXAMPLES, with the number of samples
            raise
    yield from rejected


@dataclass(frozen=True)
class _MeshVersion:
    """A data set version of the node's own mesh."""

    name: str
    manifest_sha256: str

    @classmethod
    def find(cls, name: str, *, ignore_budget: bool) -> "_MeshVersion":
        from deepseek.client.mesh import connect

        with connect() as mesh:
            version = mesh.datasets.version(name)
            dataset = version.name.partition("/versions/")[0]
            if not ignore_budget and (budgets := list(mesh.budgets.list(datasets=[dataset]))):
                remedy = (
                    "runs of a federation debit only the budget of the federation. Use data without a budget, or start "
                    "the node with `--ignore-budget`"
                )
                raise has_budget(dataset, budgets[0].name, remedy, field="data")
            return cls(version.name, version.manifest.sha256)

    def samples(self, fields: Sequence[Field]) -> Iterator[Sample | Rejected]:
        from deepseek.client.mesh import connect

        with connect() as mesh:
            manifest = DatasetManifest.from_bytes(mesh.artifacts.read(self.manifest_sha256))
            self._check(manifest, fields)
            for split in manifest.splits:
                for sample in read_samples(_Fetching(mesh.artifacts), "", manifest, split):
                    own = replace(sample, values={one.name: sample.values[one.name] for one in fields})
                    try:
                        check_sample(own, fields, decodes=False)
                    except InvalidArgument as error:
                        yield Rejected.from_error(sample.key, self.name, error, split)
                    else:
                        yield own

    def _check(self, manifest: DatasetManifest, fields: Sequence[Field]) -> None:
        stored = {one.name: one for one in manifest.fields}
        for one in fields:
            own = stored.get(one.name)
            if own is None or (own.type, own.repeated) != (one.type, one.repeated):
                found = f"it has {own}" if own else f"its fields are {', '.join(map(str, manifest.fields))}"
                message = f"{self.name} has no field {one}, which the run needs; {found}"
                raise InvalidArgument("BAD_SCHEMA", message, field="data")


class _Fetching:
    """The artifacts of a mesh, in the form in which data sets read a store."""

    def __init__(self, artifacts: Any) -> None:
        self._artifacts = artifacts

    def fetch(self, tenant: str, sha256: str, path: Path) -> object:
        """Copies a blob to a new file and verifies the copy."""
        return self._artifacts.fetch(sha256, path)


def _training_split(manifest: DatasetManifest, split: str, source: str) -> str:
    if split in manifest.splits:
        return split
    if len(manifest.splits) == 1 or (split != DEFAULT_SPLIT and DEFAULT_SPLIT in manifest.splits):
        return DEFAULT_SPLIT if DEFAULT_SPLIT in manifest.splits else next(iter(manifest.splits))
    known = ", ".join(sorted(manifest.splits))
    raise InvalidArgument("NO_EXAMPLES", f"{source} has no split {split!r}; its splits are {known}", field="data")


def _signature(path: Path) -> str:
    """Returns a digest of the names, sizes and times of the files of a source."""
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            status = path.stat()
            return f"{status.st_size}/{status.st_mtime_ns}"
        for parent, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = Path(parent, name)
                status = file.lstat()
                digest.update(
                    f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(
                        errors="surrogateescape"
                    )
                )
    except FileNotFoundError as error:
        message = f"there is no file or folder {path}; a data set version is written as mesh:NAME:VERSION"
        raise InvalidArgument("BAD_SOURCE", message, field="data") from error
    return digest.hexdigest()


def _drop_old(folder: Path) -> None:
    kept = sorted(folder.glob(f"*/{_INDEX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)[:_NUM_KEPT]
    for other in folder.iterdir():
        if other not in {path.parent for path in kept}:
            shutil.rmtree(other, ignore_errors=True)


def _url(folder: Path) -> str:
    return f"file://{folder.absolute() / 'store'}".replace("?", "%3F").replace("#", "%23")


def _num_bytes(values: Mapping[str, Any]) -> int:
    return sum(
        len(item) if isinstance(item, bytes | str) else 8
        for value in values.values()
        for item in (value if isinstance(value, list | tuple) else (value,))
    )
