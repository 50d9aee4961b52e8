"""Surroundings of tests that train: a home of their own, and no warnings that depend on the processor."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def ignore_slow_precisions(items: Sequence[pytest.Item], folder: Path) -> None:
    """Ignores warnings about precisions that are slow on some processors, in the tests of a folder."""
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(
                pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning"), append=False
            )


@contextmanager
def private_home(folder: Path) -> Iterator[Path]:
    """Sets DEEPSEEK_HOME, where the speed of numeric formats is cached."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DEEPSEEK_HOME", str(folder))
        yield folder
