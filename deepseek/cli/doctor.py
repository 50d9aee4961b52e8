"""`deepseek doctor`: checks whether this machine can run a mesh, and train and serve models."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from rich.text import Text

from common.auth.identity import EXPIRY_WARNING_DAYS, Identity, read_token
from common.cores import num_cores
from common.environment import home
from common.errors import MeshError
from common.processes import python, safe_environment
from deepseek import embedded
from deepseek.cli.output import AsJson, error_console, print_json, print_table
from deepseek.cli.precision import ratios_text
from deepseek.client import MeshFile
from deepseek.services import SERVICES

MINIMUM_FREE_BYTES = 1 << 30
PACKAGES = {"torch": ("torch",), "ONNX Runtime": ("onnxruntime-gpu", "onnxruntime"), "gRPC": ("grpcio",)}


def doctor(as_json: AsJson = False) -> None:
    """Check Python, packages, processor, disk, ports, mesh and credentials. Exit with status 1 if a check fails."""
    checks = [_python(), *_packages(), _processor(), *_precision(), _home(), _mesh(), *_credentials()]
    if as_json:
        print_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
    else:
        print_table(
            ["", "check", "found"],
            [("ok" if ok else Text("bad", style="red"), name, found) for name, ok, found in checks],
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
        checks.append((name, bool(found), found[0] if found else "missing; install it with `make demo`"))
    return checks


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> Check:
    from deepseek.processor import instruction_set

    return "processor", True, f"{num_cores()} cores, {instruction_set()}"


def _precision() -> list[Check]:
    """Checks that torch works, and reports the numeric format that the precision `auto` selects on this host's CPU.

    The formats are measured in a separate process, unless the result of an earlier measurement is cached.
    """
    if not _installed("torch"):
        return []
    argv, environment = python("deepseek.training.step_times"), safe_environment()
    with error_console.status("measuring the numeric formats"):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return [("precision", False, f"torch cannot train on this host: {lines[-1]}")]
    found = json.loads(done.stdout)
    return [("precision", True, f"auto is {found['fastest']} on a CPU{ratios_text(found['ratios'])}")]


def _home() -> Check:
    folder = home()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    writable = os.access(parent, os.W_OK)
    text = f"{folder}, {free / (1 << 30):.1f} GiB free"
    return "home", writable and free >= MINIMUM_FREE_BYTES, text if writable else f"{parent} is not writable"


def _mesh() -> Check:
    try:
        services = embedded.status(MeshFile.read(MeshFile.default_path()))
    except MeshError:
        taken = [str(one.port) for one in SERVICES.values() if not _is_free(one.port)]
        if taken:
            return "ports", False, f"{', '.join(taken)} in use by another program; use `deepseek up --free-ports`"
        return "mesh", True, "not running; all ports are free"
    bad = [service.name for service in services if service.state != "serving"]
    return "mesh", not bad, f"{', '.join(bad)} not serving; run `deepseek up`" if bad else "all services are serving"


def _credentials() -> list[Check]:
    """Checks whether the client's certificate and token, if named in the mesh file, have expired or soon will."""
    try:
        file = MeshFile.read(MeshFile.default_path())
    except MeshError:
        return []  # `_mesh` reports on a missing or invalid mesh file
    checks = []
    if file.identity:
        identity, soon = Identity(Path(file.identity)), timedelta(days=EXPIRY_WARNING_DAYS)
        checks.append(_lasting("certificate", file.identity, identity.expires, soon, "run `deepseek certs renew`"))
    if file.token_file:
        renewal = "run `deepseek token`, or join again"
        checks.append(_lasting("token", file.token_file, lambda: _token_expires(file.token_file), timedelta(), renewal))
    return checks


def _lasting(name: str, path: str, read_expiry: Callable[[], datetime | None], soon: timedelta, renewal: str) -> Check:
    try:
        expires = read_expiry()
    except MeshError as error:
        return name, False, error.message
    if expires is None:
        return name, True, f"{path} contains none; behind an edge, none is needed"
    left = expires - datetime.now(UTC)
    when = f"{path}, {'expires' if left > timedelta() else 'expired'} on {expires:%Y-%m-%d %H:%M} UTC"
    return name, left > timedelta(), when if left > soon else f"{when}; {renewal}"


def _token_expires(path: str) -> datetime:
    from common.auth.tokens import unverified_expiry_s

    return datetime.fromtimestamp(unverified_expiry_s(read_token(Path(path))), UTC)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
