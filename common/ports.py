"""Free ports of the loopback interface."""

import random
import socket
from pathlib import Path

from common.errors import Unavailable

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Returns distinct ports that could be bound just now, at random, so that concurrent callers get different ones.

    Raises:
        Unavailable: NO_FREE_PORT if there are not as many.

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
    message = f"only {len(found)} of {count} ports {which} are free; stop programs that use them"
    raise Unavailable("NO_FREE_PORT", message)


def _first_outgoing() -> int:
    """Returns the first port that the system may assign to outgoing connections.

    Those may take a port between the check and its use, or while the service that had it restarts.
    """
    try:
        first = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        first = 49_152
    # If nearly all ports are for outgoing connections, there is no better choice.
    return first if first > _LOWEST + 1000 else 65_536


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
