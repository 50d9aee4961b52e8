import socket
from pathlib import Path

import pytest

from common import ports
from common.errors import Unavailable
from common.ports import free_ports


def test_ports_are_different_and_can_be_bound_together() -> None:
    sockets = [socket.socket() for _ in range(20)]
    try:
        for each, port in zip(sockets, free_ports(20), strict=True):
            each.bind(("127.0.0.1", port))
    finally:
        for each in sockets:
            each.close()


def test_ports_that_somebody_has_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", port)
        monkeypatch.setattr(ports, "_first_outgoing", lambda: port + 1)
        with pytest.raises(Unavailable, match="1 free ports are needed, and there are 0") as caught:
            free_ports(1)
    assert caught.value.reason == "NO_FREE_PORT"


@pytest.mark.parametrize(
    ("content", "end"), [("32768\t60999\n", 32_768), ("15000 64000", 15_000), ("1024 65535", 65_536), ("", 49_152)]
)
def test_ports_for_outgoing_connections_are_left_out(
    content: str, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text(content)
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    assert all(10_000 <= port < end for port in free_ports(200))
