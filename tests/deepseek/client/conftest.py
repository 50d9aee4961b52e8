"""An embedded mesh of real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.client import Mesh
from deepseek.embedded import EmbeddedMesh
from tests.harness.mesh import embedded_mesh


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMesh]:
    home: Path = tmp_path_factory.mktemp("mesh") / "home"
    with embedded_mesh(home) as mesh:
        yield mesh


@pytest.fixture
def mesh(embedded: EmbeddedMesh) -> Iterator[Mesh]:
    with embedded.connect() as mesh:
        yield mesh
