"""`deepseek doctor`: what this machine can do, and what stands in the way."""

import importlib.metadata
import os
import shutil
import socket
import sys
from pathlib import Path

import typer

from common.config import home
from common.errors import MeshError
from deepseek import embedded
from deepseek.cli.output import AsJson, print_json, print_table
from deepseek.client import MeshFile

MINIMUM_FREE_BYTES = 1 << 30
PACKAGES = {"torch": ("torch",), "ONNX Runtime": ("onnxruntime-gpu", "onnxruntime"), "gRPC": ("grpcio",)}


def doctor(as_json: AsJson = False) -> None:
    """Check Python, packages, processor, disk, ports and the mesh. Exit status 1 if something is wrong."""
    checks = [_python(), *_packages(), _processor(), _home(), _mesh()]
    if as_json:
        print_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
    else:
        print_table(
            ["", "check", "found"], [("ok" if ok else "[red]bad[/red]", name, found) for name, ok, found in checks]
        )
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)


Check = tuple[str, bool, str]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return "Python", sys.version_info >= (3, 11), version


def _packages() -> list[Check]:
    checks = []
    for name, distributions in PACKAGES.items():
        found = [f"{d} {importlib.metadata.version(d)}" for d in distributions if _installed(d)]
        checks.append((name, bool(found), found[0] if found else "missing: install with `make demo`"))
    return checks


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> Check:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    fast = [name for name, flag in (("bf16", "avx512_bf16"), ("int8 VNNI", "avx512_vnni")) if flag in flags]
    return "processor", True, f"{os.cpu_count()} cores, fast {' and '.join(fast) or 'fp32 only'}"


def _home() -> Check:
    folder = home()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    writable = os.access(parent, os.W_OK)
    text = f"{folder}, {free / (1 << 30):.1f} GiB free"
    return "home", writable and free >= MINIMUM_FREE_BYTES, text if writable else f"{parent} cannot be written"


def _mesh() -> Check:
    try:
        services = embedded.status(MeshFile.read(MeshFile.default_path()))
    except MeshError:
        taken = [str(port) for port in embedded.PORTS.values() if not _is_free(port)]
        if taken:
            return "ports", False, f"{', '.join(taken)} taken by another program: use `deepseek up --free-ports`"
        return "mesh", True, "none runs; ports are free"
    bad = [service.name for service in services if service.state != "serving"]
    return "mesh", not bad, f"{', '.join(bad)} not serving: run `deepseek up`" if bad else "all services serve"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
