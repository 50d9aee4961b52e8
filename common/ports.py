"""Finds free ports on the loopback interface."""

import random
import socket
from pathlib import Path

from common.errors import Unavailable

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Returns distinct free ports, chosen at random so that concurrent callers rarely get the same ones.

    Raises:
        Unavailable: NO_FREE_PORT if there are fewer than `count` free ports.

    >>> len(set(free_ports(3)))
    3
    """
    found: list[int] = []
    candidates = range(_LOWEST, _first_outgoing())
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    which = f"from {candidates.start} to {candidates.stop - 1}"
    message = f"{count} free ports are needed, and there are {len(found)} {which}; stop programs that use ports there"
    raise Unavailable("NO_FREE_PORT", message)


def _first_outgoing() -> int:
    """Returns the lowest port that the system may assign to an outgoing connection.

    This port and higher ones are avoided: an outgoing connection could take one after it was found free, or while a
    service restarts.
    """
    try:
        first = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        first = 49_152
    # If nearly all ports are reserved for outgoing connections, there is no better choice than using these too.
    return first if first > _LOWEST + 1000 else 65_536


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
