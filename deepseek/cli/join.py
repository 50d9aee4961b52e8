"""`deepseek invite` and `join`: from whoever runs a mesh behind an edge to its users.

An invitation is one JSON object: whom to trust and a token. It is as secret as the token in it, so it goes from one
program into the other, or through a file that only its owner reads, and not through a chat.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.auth.identity import replace_file
from common.config import home
from common.errors import FailedPrecondition, InvalidArgument
from common.names import DEFAULT_TENANT
from common.text_files import NotUtf8, decode_text
from deepseek import embedded
from deepseek.cli.identity import SECONDS_AN_HOUR
from deepseek.cli.output import console
from deepseek.client import MeshFile
from deepseek.client.mesh import ServiceAddress


def invite(
    identity: Annotated[Path, typer.Option(help="Folder of the authority.")],
    subject: Annotated[str, typer.Option(help="Who: a user's name or address.")],
    tenant: Annotated[str, typer.Option(help="Whose data they see.")] = DEFAULT_TENANT,
    role: Annotated[str, typer.Option(help="predictor, reader, writer or admin.")] = "writer",
    hours: Annotated[float, typer.Option(help="Hours until the token expires; at most 24.")] = 8,
) -> None:
    """Print what a user needs to join a mesh behind an edge, to be piped into `deepseek join`. Keep it secret."""
    from common.auth.tokens import issue_token, role_of

    token = issue_token(
        identity / "signing" / "key.pem",
        subject,
        tenant=tenant,
        role=role_of(role),
        lifetime_s=int(hours * SECONDS_AN_HOUR),
    )
    print(json.dumps({"ca": (identity / "ca.pem").read_text(encoding="ascii"), "token": token}))


def join(
    address: Annotated[str, typer.Argument(help="host:port of the edge.")],
) -> None:
    """Join a mesh behind an edge, by the invitation on standard input. Join again when the token has expired."""
    try:
        invitation = json.loads(decode_text(sys.stdin.buffer.read()))
        ca, token = str(invitation["ca"]), str(invitation["token"])
    except NotUtf8 as error:
        raise InvalidArgument("BAD_INVITATION", f"standard input {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        message = "standard input holds no invitation; `deepseek invite`, where the mesh runs, prints one"
        raise InvalidArgument("BAD_INVITATION", message) from error
    place = home()
    path = MeshFile.default_path()
    if path.exists() and any(service.pid for service in MeshFile.read(path).services.values()):
        message = f"a mesh of its own runs in {place}; stop it with `deepseek down`, or set DEEPSEEK_HOME"
        raise FailedPrecondition("MESH_EXISTS", message)
    edge = place / "edge"
    edge.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(edge / "ca.pem", ca.encode())
    replace_file(place / "token", f"{token}\n".encode())
    services = {name: ServiceAddress(address) for name in embedded.PORTS}
    MeshFile(services, identity=str(edge), token_file=str(place / "token")).write(path)
    console.print(f"joined the mesh at {address}; see it with [bold]deepseek status[/bold]")
