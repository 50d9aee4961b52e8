"""Reads the samples of a data set version as Python values."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from deepseek.data.manifest import DatasetManifest, Field
from deepseek.data.sample import Sample
from protos.ingest.v1 import ingest_pb2
from protos.registry.v1 import registry_pb2

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


def read_samples(mesh: "Mesh", version: registry_pb2.DatasetVersion, content: DatasetManifest) -> Iterator[Sample]:
    """Yields the samples of all splits of a version, split by split in order of their names."""
    for split in sorted(content.splits):
        for message in mesh.datasets.read(version.name, split):
            yield from_proto(message, content.fields)


def from_proto(message: ingest_pb2.Sample, fields: Sequence[Field]) -> Sample:
    """Returns a received sample with the values that the sender passed."""
    received = {one.field: [getattr(v, str(v.WhichOneof("kind"))) for v in one.values] for one in message.fields}
    values = {one.name: received[one.name] if one.repeated else received[one.name][0] for one in fields}
    return Sample(message.key, message.split or "train", values)
