"""`deepseek up`, `down` and `status`: an embedded mesh that stays."""

from pathlib import Path
from typing import Annotated

import typer

from common.config import home
from deepseek import embedded
from deepseek.cli.output import AsJson, console, error_console, print_json, print_table
from deepseek.client import MeshFile

FreePorts = Annotated[
    bool, typer.Option("--free-ports", help="Take any free ports instead of 7001, 7002, 7003, 7006 and 8001.")
]


def up(
    free_ports: FreePorts = False,
    identity: Annotated[
        Path | None, typer.Option(help="Folder that `deepseek certs init` made: TLS for all, and users need a token.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Where `deepseek token` puts your token; default: `token` in the home directory."),
    ] = None,
) -> None:
    """Start a mesh on this machine that stays: a directory as store, SQLite as state, loopback only.

    A mesh that runs already is left as it is; services that are missing are started.
    """
    access = None
    if identity:
        access = embedded.Access(identity.absolute(), (token_file or home() / "token").absolute())
    with error_console.status("starting the services"):
        mesh = embedded.start_mesh(home(), stay=True, free_ports=free_ports, access=access)
    _print(embedded.status(mesh.file))
    console.print("\nstop it with [bold]deepseek down[/bold]")


def down() -> None:
    """Stop the mesh that `deepseek up` started. Calls that were accepted finish; data stays."""
    with error_console.status("stopping the services"):
        stopped = embedded.stop_mesh(home())
    console.print(f"stopped {', '.join(stopped)}" if stopped else "no mesh runs here")


def status(as_json: AsJson = False) -> None:
    """Show where each service listens and whether it is well. Exit status 1 if one is not."""
    services = embedded.status(MeshFile.read(MeshFile.default_path()))
    if as_json:
        print_json([{"service": s.name, "address": s.address, "pid": s.pid, "state": s.state} for s in services])
    else:
        _print(services)
    if any(service.state != "serving" for service in services):
        raise typer.Exit(1)


def _print(services: list[embedded.ServiceStatus]) -> None:
    print_table(["service", "address", "process", "state"], [(s.name, s.address, s.pid, s.state) for s in services])
