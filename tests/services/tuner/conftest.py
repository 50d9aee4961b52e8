"""A tuner in the process of the test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.channel import open_channel
from deepseek.client.studies import Studies
from tests.harness.in_process import service_in_process
from tests.services.tuner.job_runner import Tuner
from tests.services.tuner.scripted_trainer import ScriptedTrainer


class Connected:
    """The part of a mesh's connection that a client of studies uses."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def channel(self, service: str) -> grpc.Channel:
        """Returns the channel to the only service."""
        return self._channel


def studies_at(channel: grpc.Channel) -> Studies:
    """Returns a client of the tuner at the other end of a channel."""
    return Studies(Connected(channel))  # type: ignore[arg-type]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Studies]]:
    """Starts tuners that share one database, and returns a client of each."""
    with ExitStack() as owned:

        def start(**settings: Any) -> Studies:
            server = owned.enter_context(service_in_process("tuner", tmp_path / "home", **settings))
            return studies_at(owned.enter_context(open_channel(server.address)))

        yield start


@pytest.fixture
def studies(start: Callable[..., Studies]) -> Studies:
    """A client of a new tuner."""
    return start()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Tuner]]:
    """Makes tuners that share a database and a trainer."""
    trainer = ScriptedTrainer()
    with ExitStack() as owned:
        yield lambda: Tuner(f"sqlite:///{tmp_path / 'tuner.db'}", trainer, owned)


@pytest.fixture
def tuner(make: Callable[[], Tuner]) -> Tuner:
    return make()
