"""Sockets in folders whose paths are longer than the address of a socket."""

import os
import socket
from pathlib import Path

import pytest

from common import unix_sockets
from common.errors import FailedPrecondition
from common.unix_sockets import bind, connect, short_name


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder with a path of more than 108 bytes."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20) / "with a space, a % and ü"
    folder.mkdir(parents=True)
    return folder


def exchange(path: Path) -> bytes:
    """Sends a byte through a new socket, and returns what arrives."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        bind(listener, path)
        listener.listen()
        connect(client, path)
        client.sendall(b"x")
        with listener.accept()[0] as accepted:
            return accepted.recv(1)


def test_a_socket_in_a_deep_folder_is_private_and_carries_bytes(deep: Path) -> None:
    path = deep / "s.sock"
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(path))
    assert exchange(path) == b"x"
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_socket_of_a_process_that_was_killed_is_replaced(deep: Path) -> None:
    path = deep / "s.sock"
    with socket.socket(socket.AF_UNIX) as lost:
        bind(lost, path)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        connect(client, path)
    assert exchange(path) == b"x"


def test_a_name_ends_with_its_block(deep: Path) -> None:
    before = set(os.listdir(unix_sockets.DESCRIPTORS))
    (deep / "file").touch()
    with short_name(deep / "file") as name:
        assert len(name) < 100
        assert Path(name).samefile(deep / "file")
    assert set(os.listdir(unix_sockets.DESCRIPTORS)) == before


def test_a_missing_folder_is_an_os_error(deep: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        connect(client, deep / "none" / "s.sock")


def test_other_systems_use_the_path_and_refuse_a_long_one(
    deep: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unix_sockets, "DESCRIPTORS", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert exchange(Path("s.sock")) == b"x"
    with pytest.raises(FailedPrecondition, match="choose a shorter folder") as caught:
        exchange(deep / "s.sock")
    assert caught.value.reason == "SOCKET_PATH_TOO_LONG"
