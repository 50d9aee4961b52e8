"""Shared by tests of the training library."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.deepseek.training.surroundings import ignore_slow_precisions, private_home


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Ignores warnings about slow precisions."""
    ignore_slow_precisions(items, Path(__file__).parent)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DEEPSEEK_HOME."""
    with private_home(tmp_path_factory.mktemp("home")) as folder:
        yield folder
