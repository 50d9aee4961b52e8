"""Watches end when the client leaves or the server stops; over gRPC, see `tests/common/jobs/test_servicer.py`."""

from collections.abc import Callable
from typing import Any, cast

import grpc
import pytest

from common.errors import Unavailable
from common.watches import Watches


class Context:
    """The part of a `grpc.ServicerContext` that a watch uses."""

    def __init__(self, *, ended: bool = False) -> None:
        self.ended = ended
        self.callbacks: list[Callable[[], Any]] = []

    def add_callback(self, callback: Callable[[], Any]) -> bool:
        self.callbacks.append(callback)
        return not self.ended


def context(*, ended: bool = False) -> grpc.ServicerContext:
    return cast(grpc.ServicerContext, Context(ended=ended))


def test_a_watch_counts_while_it_is_open() -> None:
    watches = Watches()
    with watches.open(context()) as stop, watches.open(context()):
        assert len(watches) == 2
        watches.check(stop)
    assert len(watches) == 0


def test_a_watch_ends_when_its_client_leaves() -> None:
    watches, client = Watches(), Context()
    with watches.open(cast(grpc.ServicerContext, client)) as stop:
        client.callbacks[0]()
        with pytest.raises(Unavailable):
            watches.check(stop)
    assert len(watches) == 0


def test_a_watch_whose_client_has_left_already_ends_at_once() -> None:
    with Watches().open(context(ended=True)) as stop:
        assert stop.is_set()


def test_closing_ends_open_watches_and_later_ones() -> None:
    watches = Watches()
    with watches.open(context()) as earlier:
        watches.close()
        with pytest.raises(Unavailable) as caught:
            watches.check(earlier)
    assert caught.value.reason == "SERVER_STOPPING"
    with watches.open(context()) as later:
        assert later.is_set()
