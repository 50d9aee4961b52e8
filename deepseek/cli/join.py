"""`deepseek invite` and `deepseek join`: give users access to a mesh behind an edge.

An invitation is one JSON object that contains the certificate of the trusted CA and a token. Because of the token, an
invitation must be kept secret: pass it through a pipe or a file that only its owner can read, never through a chat.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.environment import home
from common.errors import FailedPrecondition, InvalidArgument
from common.files import replace_file
from common.names import DEFAULT_TENANT
from common.text_files import NotUtf8, decode_text
from deepseek.cli.identity import SECONDS_AN_HOUR
from deepseek.cli.output import AsJson, bold, console, print_json
from deepseek.client import MeshFile, ServiceAddress
from deepseek.services import SERVICES


def invite(
    identity: Annotated[Path, typer.Option(help="Folder of the certificate authority.")],
    subject: Annotated[str, typer.Option(help="Name or address of the user.")],
    tenant: Annotated[str, typer.Option(help="Tenant whose data the user sees.")] = DEFAULT_TENANT,
    role: Annotated[
        str, typer.Option(help="predictor, reader, writer or admin; each role includes the roles before it.")
    ] = "writer",
    hours: Annotated[float, typer.Option(help="Hours until the token expires; at most 24.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Print an invitation to a mesh behind an edge, as input for `deepseek join`. Keep the invitation secret.

    An invitation is a JSON object, with and without --json.
    """
    from common.auth.tokens import issue_token, role_of

    token = issue_token(
        identity / "signing" / "key.pem",
        subject,
        tenant=tenant,
        role=role_of(role),
        lifetime_s=int(hours * SECONDS_AN_HOUR),
    )
    print_json({"ca": (identity / "ca.pem").read_text(encoding="ascii"), "token": token})


def join(
    address: Annotated[str, typer.Argument(help="Address of the edge, host:port.")],
    as_json: AsJson = False,
) -> None:
    """Join a mesh behind an edge, using an invitation on standard input. Join again after the token has expired."""
    try:
        invitation = json.loads(decode_text(sys.stdin.buffer.read()))
        ca, token = str(invitation["ca"]), str(invitation["token"])
    except NotUtf8 as error:
        raise InvalidArgument("BAD_INVITATION", f"standard input {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        message = "standard input contains no invitation; create one with `deepseek invite` where the mesh runs"
        raise InvalidArgument("BAD_INVITATION", message) from error
    place = home()
    path = MeshFile.default_path()
    if path.exists() and any(service.pid for service in MeshFile.read(path).services.values()):
        message = (
            f"an embedded mesh is running in {place}; stop it with `deepseek down`, or set DEEPSEEK_HOME to another "
            "directory"
        )
        raise FailedPrecondition("MESH_EXISTS", message)
    edge = place / "edge"
    edge.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(edge / "ca.pem", ca.encode())
    replace_file(place / "token", f"{token}\n".encode())
    services = {name: ServiceAddress(address) for name in SERVICES}
    MeshFile(services, identity=str(edge), token_file=str(place / "token")).write(path)
    if as_json:
        print_json({"address": address, "mesh_file": str(path)})
    else:
        console.print(f"joined the mesh at {address}; check it with", bold("deepseek status"))
