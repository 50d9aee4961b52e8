"""`deepseek audit`: verifies the audit logs of this machine's services."""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from common.environment import home
from common.errors import FailedPrecondition, InvalidArgument, MeshError, Unavailable
from common.processes import python, safe_environment
from common.telemetry.audit_records import EMPTY, Head
from common.telemetry.audit_verify import AuditFinding, Verification, verify
from deepseek.cli.output import AsJson, console, print_json, print_table
from deepseek.client import Mesh, MeshFile
from deepseek.services import SERVICES
from protos.audit.v1 import audit_pb2, audit_pb2_grpc

_NOT_RUNNING = ("SERVICE_UNREACHABLE", "MESH_NOT_FOUND", "SERVICE_NOT_IN_MESH")

app = typer.Typer(
    help="Verify the audit logs, which record the callers, methods, resources and outcomes of calls.",
    no_args_is_help=True,
)


@app.callback()
def audit() -> None:
    """Makes `verify` a subcommand, so that other subcommands can be added."""


@app.command("verify")
def verify_logs(
    service: Annotated[
        list[str] | None, typer.Option("--service", help="Service whose log to check; may be repeated. Default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every line of the logs, and compare each log with its anchor. Exit with status 1 if a log was changed.

    An anchor is the number and hash of a log's last record, which the service stores in its database. Run this command
    on the machine of the services, which may be running or stopped. The running service reports the anchor. If the
    service is stopped, its program is started for that purpose. Services on other machines or in other containers must
    be running.
    """
    names = service or list(SERVICES)
    for name in names:
        if name not in SERVICES:
            known = ", ".join(SERVICES)
            raise InvalidArgument(
                "UNKNOWN_SERVICE", f"{name} is not a service; the services are {known}", field="service"
            )
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
        rows = [(name, log.num_records, "NOT intact" if log.findings else "intact") for name, log in checked.items()]
        print_table(["service", "records", "log"], rows)
        for name, log in checked.items():
            for finding in log.findings:
                text = f"{_file(home(), name)}:{finding.line}: {finding.problem}"
                console.print(text, highlight=False, soft_wrap=True)
    if any(log.findings for log in checked.values()):
        raise typer.Exit(1)


def _verify(place: Path, name: str) -> Verification:
    head = _head(place, name)
    log = verify(_file(place, name), head or EMPTY)
    if head is None and log.num_records:
        return Verification(log.num_records, (*log.findings, AuditFinding(1, "begins a log that has no anchor")))
    return log


def _head(place: Path, name: str) -> Head | None:
    """Returns the head of a service's audit log, as stored in the service's database; None if no head is stored.

    The running service reports the head. If the service is stopped, its program is started only to report the head.
    """
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
    """Returns an error that says why a service's program failed, according to the last line of the program's log."""
    last = log.strip().rpartition("\n")[2]
    try:
        entry = json.loads(last)
        return FailedPrecondition(entry["reason"], f"{name}: {entry['message']}")
    except (ValueError, KeyError):
        message = f"{name} did not report the head of its audit log; the last line of its output is: {last}"
        return FailedPrecondition("SERVICE_ENDED", message)


def _file(place: Path, name: str) -> Path:
    return place / "audit" / f"{name}.jsonl"
