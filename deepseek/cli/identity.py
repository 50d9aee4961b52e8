"""`deepseek certs` and `deepseek token`: what a small site needs to tell its services and users apart."""

from pathlib import Path
from typing import Annotated

import typer

from common.auth.identity import replace_file
from common.config import home
from common.errors import FailedPrecondition
from common.names import DEFAULT_TENANT
from deepseek import embedded
from deepseek.cli.output import console

app = typer.Typer(help="Certificates and keys of a mesh: an authority in a folder of yours.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the authority; keep it where no service can read it.")]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="A further name or address under which services are reached; repeat.")
]
SECONDS_AN_HOUR = 3600


@app.command("init")
def init(
    folder: Folder,
    host: Hosts = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="A service; repeat. Default: all of them.")] = None,
) -> None:
    """Make a CA, a certificate for every service, the edge and the command line, and a key that signs tokens.

    Each gets a folder of its own with ca.pem, cert.pem, key.pem and jwks.json: give a service that one only.
    """
    from common.auth.certificates import make_authority

    make_authority(folder, name or list(embedded.PORTS), hosts=host or [])
    console.print(f"{folder}: authority, certificates and signing key made")
    console.print(f"next: deepseek token --identity {folder} --subject YOU, then deepseek up --identity {folder}")


@app.command("renew")
def renew(
    folder: Folder,
    host: Hosts = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Which; also a new one; repeat. Default: all.")
    ] = None,
) -> None:
    """Make certificates anew, by the same CA. Servers take them without a restart; certificates last a year."""
    from common.auth.certificates import renew

    console.print(f"{folder}: renewed {', '.join(renew(folder, names=name or [], hosts=host or []))}")


@app.command("rotate")
def rotate(
    folder: Folder,
    revoke: Annotated[bool, typer.Option("--revoke", help="Refuse every token made before, at once.")] = False,
) -> None:
    """Make a new key for tokens. Tokens of the key before stay valid until they expire, unless --revoke."""
    from common.auth.certificates import rotate_signing_key

    if not (folder / "ca.pem").exists():
        message = f"{folder} holds no authority; `deepseek certs init` makes one"
        raise FailedPrecondition("IDENTITY_NOT_FOUND", message, field="folder")
    rotate_signing_key(folder, revoke=revoke)
    console.print(
        f"{folder}: new signing key; {'all tokens made before are refused' if revoke else 'services take it'}"
    )


def token(
    identity: Annotated[Path, typer.Option(help="Folder of the authority.")],
    subject: Annotated[str, typer.Option(help="Who: a user's name or address.")],
    tenant: Annotated[str, typer.Option(help="Whose data they see.")] = DEFAULT_TENANT,
    role: Annotated[
        str, typer.Option(help="predictor, reader, writer, admin or operator; each may do what those before it may.")
    ] = "writer",
    hours: Annotated[float, typer.Option(help="Hours until it expires; at most 24.")] = 8,
    output: Annotated[
        Path | None, typer.Option(help="File to put it into; default: `token` in the home directory.")
    ] = None,
) -> None:
    """Make a user's token and put it into a file that its owner alone can read."""
    from common.auth.tokens import issue_token, role_of

    made = issue_token(
        identity / "signing" / "key.pem",
        subject,
        tenant=tenant,
        role=role_of(role),
        lifetime_s=int(hours * SECONDS_AN_HOUR),
    )
    path = output or home() / "token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, f"{made}\n".encode())
    console.print(f"{path}: {subject} of {tenant}, {role}, for {hours:g} h")
