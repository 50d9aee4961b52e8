"""One stack for all tests of this folder, which run in the order of their files: the last test empties it."""

from collections.abc import Iterator

import pytest

from tests.e2e.compose.stack import MODEL, Stack, running_stack
from tests.e2e.small_job import train_and_serve


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("ana") / "home") as stack:
        yield stack


@pytest.fixture(scope="package")
def served(stack: Stack) -> str:
    """A model that was trained and is served; its version."""
    with stack.connect() as mesh:
        return train_and_serve(mesh, MODEL).name
