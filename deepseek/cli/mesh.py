"""`deepseek up`, `down` and `status`: start, stop and show an embedded mesh that keeps running between commands."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.environment import home
from common.fork_client import ForkServer, can_fork
from deepseek.cli.output import AsJson, bold, console, error_console, print_json, print_table
from deepseek.services import SERVICES

if TYPE_CHECKING:
    from deepseek.embedded import ServiceStatus

_PORTS = ", ".join(str(service.port) for service in SERVICES.values())

FreePorts = Annotated[bool, typer.Option("--free-ports", help=f"Use any free ports instead of {_PORTS}.")]


def up(
    free_ports: FreePorts = False,
    identity: Annotated[
        Path | None,
        typer.Option(help="Folder created by `deepseek certs init`; enables TLS, and users then need a token."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with your token (see `deepseek token`); default: `token` in the home directory."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a mesh on this machine and leave it running.

    It uses a directory as its store and SQLite for its state, and listens on loopback only. Services that are already
    running are left alone.
    """
    with error_console.status("starting the services"), ExitStack() as stack:
        forks = None
        if can_fork():  # its imports overlap with those of this process
            forks = stack.enter_context(ForkServer(fresh=not (home() / "state").exists(), detach=True))
        from deepseek import embedded

        access = None
        if identity:
            access = embedded.Access(identity.absolute(), (token_file or home() / "token").absolute())
        started: list[ServiceStatus] = []
        embedded.start_mesh(
            home(), stay=True, free_ports=free_ports, access=access, forks=forks, on_ready=started.append
        )
    if as_json:
        print_json(_documents(started))
    else:
        _print(started)
        console.print("\nstop it with", bold("deepseek down"))


def down(as_json: AsJson = False) -> None:
    """Stop the mesh that `deepseek up` started. Accepted calls finish, and data is kept."""
    from deepseek import embedded

    with error_console.status("stopping the services"):
        stopped = embedded.stop_mesh(home())
    if as_json:
        print_json({"stopped": stopped})
    else:
        console.print(f"stopped {', '.join(stopped)}" if stopped else "no mesh is running here")


def status(as_json: AsJson = False) -> None:
    """Show the address and state of each service. Exit status 1 if a service is not serving."""
    from deepseek import embedded
    from deepseek.client import MeshFile

    services = embedded.status(MeshFile.read(MeshFile.default_path()))
    if as_json:
        print_json(_documents(services))
    else:
        _print(services)
    if any(service.state != "serving" for service in services):
        raise typer.Exit(1)


def _documents(services: "list[ServiceStatus]") -> list[dict[str, Any]]:
    return [{"service": s.name, "address": s.address, "pid": s.pid, "state": s.state} for s in services]


def _print(services: "list[ServiceStatus]") -> None:
    print_table(["service", "address", "process", "state"], [(s.name, s.address, s.pid, s.state) for s in services])
