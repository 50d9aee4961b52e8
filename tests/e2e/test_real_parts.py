"""The whole way on an S3 store and PostgreSQL instead of a directory and SQLite."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from deepseek.client import Mesh
from deepseek.models.inputs import encode_inputs
from deepseek.services import SERVICES
from tests.e2e.small_job import train_and_serve
from tests.harness.images import image_file
from tests.harness.mesh import Storage, embedded_mesh
from tests.harness.servers import S3Server, postgresql, seaweedfs

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real") / "home"


@pytest.fixture(scope="module")
def mesh(s3: S3Server, database_url: str, home: Path) -> Iterator[Mesh]:
    with pytest.MonkeyPatch.context() as environment:
        for service in SERVICES:
            for setting, value in Storage(database_url, s3.store_address).settings(service).items():
                environment.setenv(f"DEEPSEEK_{service}_{setting}".upper(), value)
        with embedded_mesh(home) as embedded, embedded.connect() as mesh:
            yield mesh


def test_data_goes_in_and_a_served_model_comes_out(mesh: Mesh, database_url: str) -> None:
    model = train_and_serve(mesh, "pictures")
    manifest = mesh.models.manifest(model)
    scores = mesh.inference.infer("pictures", encode_inputs(manifest, {"image": image_file(0), "question": "is it?"}))
    assert np.isfinite(scores[manifest.outputs[0].name]).all()
    assert mesh.store.exists(mesh.tenant, manifest.file().sha256)
    with psycopg.connect(database_url.replace("postgresql+psycopg", "postgresql")) as connection:
        schemas = {row[0] for row in connection.execute("select schema_name from information_schema.schemata")}
    assert set(SERVICES) <= schemas


def test_nothing_of_it_lies_in_the_home_directory(mesh: Mesh, home: Path) -> None:
    assert not list((home / "state").glob("*.db"))
    assert not (home / "store").exists()
