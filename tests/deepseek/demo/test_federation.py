"""The parts of the federated demo that need no nodes."""

from pathlib import Path

import pytest

from deepseek.client import connect
from deepseek.demo import colours, federation
from tests.harness.mesh import embedded_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_model_at_the_start_is_evaluated_on_the_coordinators_test_images(tmp_path: Path) -> None:
    own, _ = colours.write(tmp_path / "data", federation.NUM_NODES)
    with embedded_mesh(tmp_path / "home"), connect(tmp_path / "home" / "mesh.json") as mesh:
        start = federation.train_start(mesh, federation.import_reference(mesh, own))
        # The coordinator's few images make it better than chance.
        assert 2 / len(colours.COLOURS) < federation.accuracy_of(mesh, start) < 1
