"""`deepseek audit`: whether the audit logs of this machine's services are whole."""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from common.config import home
from common.errors import FailedPrecondition, InvalidArgument, MeshError, Unavailable
from common.processes import python, safe_environment
from common.telemetry.audit import EMPTY, Finding, Head, Verification, verify
from deepseek import embedded
from deepseek.cli.output import AsJson, console, print_json, print_table
from deepseek.client import Mesh, MeshFile
from protos.audit.v1 import audit_pb2, audit_pb2_grpc

_NOT_RUNNING = ("SERVICE_UNREACHABLE", "MESH_NOT_FOUND", "SERVICE_NOT_IN_MESH")

app = typer.Typer(help="The audit logs: who did what to which object, and how it ended.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Makes `verify` a command of its own, so that others can come beside it."""


@app.command("verify")
def verify_logs(
    service: Annotated[
        list[str] | None, typer.Option("--service", help="Check this service's log only; repeat. Default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every line of the logs, and each log against the anchor that its service keeps. Exit status 1 if not whole.

    Run it on the machine of the services, whether they run or not. A service that runs is asked for the end of its log;
    of one that does not, its program tells, unless it runs on another machine (or in another container): start it.
    """
    names = service or list(embedded.PORTS)
    for name in names:
        if name not in embedded.PORTS:
            known = ", ".join(embedded.PORTS)
            raise InvalidArgument("UNKNOWN_SERVICE", f"{name} is no service; there are {known}", field="service")
    checked = {name: _verify(home(), name) for name in names}
    if as_json:
        logs = [
            {
                "service": name,
                "records": log.num_records,
                "findings": [{"line": finding.line, "problem": finding.problem} for finding in log.findings],
            }
            for name, log in checked.items()
        ]
        print_json(logs)
    else:
        rows = [(name, log.num_records, "NOT whole" if log.findings else "whole") for name, log in checked.items()]
        print_table(["service", "records", "log"], rows)
        for name, log in checked.items():
            for finding in log.findings:
                text = f"{_file(home(), name)}:{finding.line}: {finding.problem}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)
    if any(log.findings for log in checked.values()):
        raise typer.Exit(1)


def _verify(place: Path, name: str) -> Verification:
    head = _head(place, name)
    log = verify(_file(place, name), head or EMPTY)
    if head is None and log.num_records:
        return Verification(log.num_records, (*log.findings, Finding(1, "begins a log of which there is no anchor")))
    return log


def _head(place: Path, name: str) -> Head | None:
    """Where the log ends, by the service if it runs, else by its program, since nobody else opens its database."""
    is_elsewhere = False
    try:
        file = MeshFile.read(place / "mesh.json")
        is_elsewhere = name in file.services and not file.services[name].pid
        with Mesh(file) as mesh:
            stub = audit_pb2_grpc.AuditServiceStub(mesh.channel(name))
            answer = stub.GetAuditHead(audit_pb2.GetAuditHeadRequest())
        return Head(answer.sequence, answer.hash, answer.size_bytes)
    except (Unavailable, FailedPrecondition) as error:
        if is_elsewhere or error.reason not in _NOT_RUNNING:
            raise
    command = python(f"services.{name}", "--home", str(place), "--audit-head", "true")
    environment = safe_environment()
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _reported(name, done.stderr)
    document = json.loads(done.stdout)
    return Head(**document) if document else None


def _reported(name: str, log: str) -> MeshError:
    """Why a service's program failed, by the last line of its log."""
    last = log.strip().rpartition("\n")[2]
    try:
        entry = json.loads(last)
        return FailedPrecondition(entry["reason"], f"{name}: {entry['message']}")
    except (ValueError, KeyError):
        return FailedPrecondition("SERVICE_ENDED", f"{name} does not tell where its audit log ends: {last}")


def _file(place: Path, name: str) -> Path:
    return place / "audit" / f"{name}.jsonl"
