"""`deepseek certs` and `deepseek token`: create certificates for services and tokens for users at a small site."""

from pathlib import Path
from typing import Annotated

import typer

from common.environment import home
from common.errors import FailedPrecondition
from common.files import replace_file
from common.names import DEFAULT_TENANT
from deepseek.cli.output import AsJson, console, print_json
from deepseek.services import SERVICES

app = typer.Typer(
    help="Create a mesh's certificates and keys, using a certificate authority that is stored in a folder.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Argument(help="Folder of the certificate authority; services must not be able to read it.")
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="Additional DNS name or IP address of the services; may be repeated.")
]
SECONDS_AN_HOUR = 3600


@app.command("init")
def init(
    folder: Folder,
    host: Hosts = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Service to create a certificate for; may be repeated. Default: all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a CA, certificates for every service, the edge and the command line, and a key that signs tokens.

    Each certificate is in a separate folder with ca.pem, cert.pem, key.pem and jwks.json. A service needs only its own
    folder.
    """
    from common.auth.certificates import make_authority

    services = name or list(SERVICES)
    make_authority(folder, services, hosts=host or [])
    if as_json:
        print_json({"folder": str(folder), "services": services})
        return
    console.print(f"{folder}: created authority, certificates and signing key")
    console.print(f"next: deepseek token --identity {folder} --subject YOU, then deepseek up --identity {folder}")


@app.command("renew")
def renew(
    folder: Folder,
    host: Hosts = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Certificate to renew or add; may be repeated. Default: all existing ones."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Renew certificates with the same CA. Servers load them without a restart. Certificates are valid for a year."""
    from common.auth.certificates import renew

    renewed = renew(folder, names=name or [], hosts=host or [])
    if as_json:
        print_json({"folder": str(folder), "renewed": renewed})
    else:
        console.print(f"{folder}: renewed {', '.join(renewed)}")


@app.command("rotate")
def rotate(
    folder: Folder,
    revoke: Annotated[bool, typer.Option("--revoke", help="Invalidate all existing tokens at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a new signing key. Existing tokens remain valid until they expire, unless --revoke is set."""
    from common.auth.certificates import rotate_signing_key

    if not (folder / "ca.pem").exists():
        message = f"{folder} contains no certificate authority; create one with `deepseek certs init`"
        raise FailedPrecondition("IDENTITY_NOT_FOUND", message, field="folder")
    rotate_signing_key(folder, revoke=revoke)
    if as_json:
        print_json({"folder": str(folder), "revoked": revoke})
        return
    earlier = "are invalid" if revoke else "remain valid until they expire"
    console.print(f"{folder}: new signing key; earlier tokens {earlier}")


def token(
    identity: Annotated[Path, typer.Option(help="Folder of the certificate authority.")],
    subject: Annotated[str, typer.Option(help="Name or address of the user.")],
    tenant: Annotated[str, typer.Option(help="Tenant whose data the user sees.")] = DEFAULT_TENANT,
    role: Annotated[
        str, typer.Option(help="predictor, reader, writer, admin or operator; each role includes the roles before it.")
    ] = "writer",
    hours: Annotated[float, typer.Option(help="Hours until the token expires; at most 24.")] = 8,
    output: Annotated[
        Path | None, typer.Option(help="File for the token; default: `token` in the home directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a user's token in a file that only its owner can read."""
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
    if as_json:
        print_json({"file": str(path), "subject": subject, "tenant": tenant, "role": role, "hours": hours})
    else:
        console.print(f"{path}: {subject} of {tenant}, {role}, for {hours:g} h")
