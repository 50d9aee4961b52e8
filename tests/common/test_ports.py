import socket

import pytest

from common.ports import free_ports


def test_ports_are_different_and_can_be_bound_together() -> None:
    sockets = [socket.socket() for _ in range(20)]
    try:
        for each, port in zip(sockets, free_ports(20), strict=True):
            each.bind(("127.0.0.1", port))
    finally:
        for each in sockets:
            each.close()


def test_a_port_that_somebody_has_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr("common.ports._CANDIDATES", range(port, port + 2))
        assert port not in free_ports(2)


def test_no_port_is_one_of_those_for_outgoing_connections() -> None:
    assert max(free_ports(50)) < 32_768
