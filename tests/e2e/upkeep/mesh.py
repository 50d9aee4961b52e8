"""Meshes of real processes with data, a served model and marks, and where an embedded one keeps its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from deepseek.client import Mesh
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.embedded import EmbeddedMesh
from deepseek.models.inputs import encode_inputs
from protos.ingest.v1 import ingest_pb2
from protos.watermark.v1 import watermark_pb2
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from tests.harness.images import PNG, image_file
from tests.harness.mesh import embedded_mesh
from tests.services.ingest.client import IngestClient, field

TEXT = (Field("text", "text", repeated=False, labels=()),)
PICTURES = (
    Field("image", "image", repeated=False, labels=()),
    Field("question", "text", repeated=True, labels=()),
    Field("answer", "label", repeated=True, labels=("no", "yes")),
)


@contextmanager
def running(home: Path, environment: dict[str, str] | None = None) -> Iterator[EmbeddedMesh]:
    """Runs a mesh of real processes, with settings of its services in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        with embedded_mesh(home) as embedded:
            yield embedded


def texts(number: int) -> list[Sample]:
    """Samples of one data set, other ones for each number."""
    return [Sample(f"k{i}", "train", {"text": f"{number} {i}"}) for i in range(1500)]


def leave_upload(mesh: Mesh, dataset: str, samples: list[Sample]) -> None:
    """Leaves an upload of `TEXT` open, as a killed client does."""
    client = IngestClient(mesh.channel("ingest"), mesh.channel("registry"))
    schema = ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="text", type=ingest_pb2.FIELD_TYPE_TEXT)])
    client.send(
        client.create(dataset, schema),
        [ingest_pb2.Sample(key=s.key, split=s.split, fields=[field("text", s.values["text"])]) for s in samples],
    )


def answer(mesh: Mesh) -> NDArray[np.generic]:
    """What the served model makes of a picture."""
    manifest = mesh.models.manifest(mesh.models.version("models/pictures/versions/1"))
    scores = mesh.inference.infer("pictures", encode_inputs(manifest, {"image": image_file(0), "question": "is it?"}))
    return np.asarray(scores[manifest.outputs[0].name])


def blobs(mesh: Mesh) -> set[str]:
    """Digests of all blobs of the mesh's own tenant."""
    return set(mesh.store.list(mesh.tenant))


def stored(embedded: EmbeddedMesh, sha256: str) -> Path:
    """The file of a blob in an embedded mesh's store."""
    assert embedded.file.store is not None
    return Path(urlsplit(embedded.file.store.url).path) / "default" / "sha256" / sha256[:2] / sha256


def audit_folder(embedded: EmbeddedMesh) -> Path:
    """Where an embedded mesh keeps what its services did."""
    assert embedded.file.store is not None
    return Path(urlsplit(embedded.file.store.url).path).parent / "audit"


def marked(mesh: Mesh) -> watermark_pb2.MarkImageResponse:
    """A picture with a mark, of one and the same call."""
    request = watermark_pb2.MarkImageRequest(image=PNG, request_id="first")
    answer: watermark_pb2.MarkImageResponse = WatermarkServiceStub(mesh.channel("watermark")).MarkImage(request)
    return answer
