"""Ports of loopback that nobody has."""

import random
import socket

# Below 32768, where Linux's ports for outgoing connections begin: of those, any connection may take a port that was
# free a moment ago, and one that a service wants back when it starts again.
_CANDIDATES = range(10_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Returns different ports that could be bound just now, at random, so that others who look find others.

    >>> len(set(free_ports(3)))
    3
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
