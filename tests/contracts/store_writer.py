"""A process that uses an artifact store, for tests that kill it or look at its memory.

Usage: python -m tests.contracts.store_writer URL ACCESS_KEY_FILE SECRET_KEY_FILE TENANT ACTION ARGUMENT...
"""

import hashlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from common.artifacts import open_store


def _half_then_wait() -> Iterator[bytes]:
    yield b"half of it" * 500_000
    print("half", flush=True)
    sys.stdin.read()


def _chunks(num_mebibytes: int) -> Iterator[bytes]:
    for index in range(num_mebibytes):
        yield hashlib.sha256(b"%d" % index).digest() * 32768


def main(arguments: list[str]) -> None:
    """Does one action."""
    url, access, secret, tenant, action, *rest = arguments
    store = open_store(
        url, access_key_file=Path(access) if access else None, secret_key_file=Path(secret) if secret else None
    )
    if action == "half":
        store.put(tenant, _half_then_wait(), "text/plain")
    elif action == "file":
        print("started", flush=True)
        store.put(tenant, Path(rest[0]), "text/plain")
    elif action == "stream":
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        artifact = store.put(tenant, _chunks(int(rest[0])), "application/octet-stream")
        store.fetch(tenant, artifact.sha256, Path(rest[1]))
        after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(artifact.size_bytes >> 20, (after_kib - before_kib) >> 10)


if __name__ == "__main__":
    main(sys.argv[1:])
