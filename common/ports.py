"""Free ports of the loopback interface."""

import random
import socket

# Below 32768, where Linux's ephemeral ports begin: any outgoing connection may take one of those that was free a moment
# ago, or that a service needs again when it restarts.
_CANDIDATES = range(10_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Returns distinct ports that could be bound just now, at random, so that concurrent callers get different ones.

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
