"""Shared by tests of federated rounds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deepseek.training.surroundings import private_home


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DEEPSEEK_HOME."""
    with private_home(tmp_path_factory.mktemp("home")) as folder:
        yield folder
