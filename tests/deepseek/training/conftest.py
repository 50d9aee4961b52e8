"""Shared by tests of training: their own home, and no warnings that depend on the processor."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Ignores warnings about precisions that are slow on some processors."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(
                pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning"), append=False
            )


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DEEPSEEK_HOME, where the speed of numeric formats is cached."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DEEPSEEK_HOME", str(folder))
        yield folder
