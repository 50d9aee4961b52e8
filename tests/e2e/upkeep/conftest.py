"""One mesh for all tests of this folder, which run in the order of their files: the first find it untouched."""

from collections.abc import Iterator

import pytest

from deepseek.client import Mesh
from deepseek.data.sample import Sample
from deepseek.embedded import EmbeddedMesh
from tests.e2e.small_job import SPEC
from tests.e2e.upkeep.mesh import PICTURES, leave_upload, marked, running, texts
from tests.harness.images import image_file


@pytest.fixture(scope="package")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMesh]:
    with running(tmp_path_factory.mktemp("source") / "home") as embedded:
        yield embedded


@pytest.fixture(scope="package")
def mesh(embedded: EmbeddedMesh) -> Iterator[Mesh]:
    """A mesh with a served model, a run with superseded checkpoints, and an upload that was left in the middle."""
    with embedded.connect() as mesh:
        samples = [
            Sample(str(i), "train", {"image": image_file(i), "question": ["is it?", "why?"], "answer": ["yes", "no"]})
            for i in range(8)
        ]
        version = mesh.datasets.upload("pictures", PICTURES, samples)
        run, _ = mesh.runs.submit({**SPEC, "epochs": 3, "dataset_version": version.name})
        mesh.runs.wait(run.name)
        mesh.runs.export(run.name, "pictures")
        mesh.models.set_alias("pictures", "production", "models/pictures/versions/1")
        mesh.inference.load("pictures")
        marked(mesh)
        leave_upload(mesh, "unfinished", texts(0))
        yield mesh
