"""Which addresses a process and those that it started listen on."""

import contextlib
import ipaddress
import os
import sys
from pathlib import Path

_LISTEN = "0A"


def descendants(pid: int) -> set[int]:
    """A process and everything below it, in whatever session."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # ended while we looked
    found = {pid}
    while below := {child for child, parent in parents.items() if parent in found} - found:
        found |= below
    return found


def listeners(pids: set[int]) -> dict[str, set[str]]:
    """Addresses that any of the processes accepts TCP connections on, e.g. `{"127.0.0.1:7003": {"python -m x"}}`."""
    owners: dict[str, set[str]] = {}
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue  # ended while we looked
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # closed while we looked
                link = os.readlink(descriptor)
                if link.startswith("socket:["):
                    owners.setdefault(link[len("socket:[") : -1], set()).add(command)
    found: dict[str, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            inode = rest[5]
            if state == _LISTEN and inode in owners:
                found.setdefault(_address(local), set()).update(owners[inode])
    return found


def is_loopback(address: str) -> bool:
    """Whether an address of `listeners` is reached from this machine alone."""
    ip = ipaddress.ip_address(address.rpartition(":")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _address(text: str) -> str:
    """From the kernel's form: words in the byte order of the machine, in hexadecimal."""
    ip, _, port = text.partition(":")
    words = [int(ip[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(ip), 8)]
    return f"{ipaddress.ip_address(b''.join(words))}:{int(port, 16)}"
