"""A mesh with a served model, shared by the tests of all commands that need one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.embedded import EmbeddedMesh
from tests.deepseek.cli.commands import deepseek, succeeded
from tests.harness.mesh import embedded_mesh
from tests.services.trainer import onnx_models


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, EmbeddedMesh]]:
    home: Path = tmp_path_factory.mktemp("models") / "home"
    with embedded_mesh(home) as mesh:
        yield home, mesh


@pytest.fixture(scope="session")
def home(embedded: tuple[Path, EmbeddedMesh]) -> Path:
    """A mesh with the model `forest`, of which version 1 is served and has the alias `champion`."""
    home = embedded[0]
    path = onnx_models.write(home.parent / "forest.onnx", onnx_models.classifier())
    done = deepseek(home, "model", "import", "forest", str(path), "--license", "BSD-3-Clause", "--note", "a test")
    assert done.returncode == 0, done.stderr
    assert "the output 'by_class' is no tensor and was left out" in done.stdout
    assert done.stdout.count("serve it with `deepseek model load forest:1`") == 1
    assert not re.search(r"ms per request|\bfigure\b", done.stdout)
    assert "forest@champion -> forest:1" in succeeded(home, "model", "alias", "forest", "champion", "1")
    assert "forest:1 is served from model.onnx" in succeeded(home, "model", "load", "forest@champion")
    return home
