"""Runs a `deepseek` command with the operator role in the running stack: `docker compose run --rm upkeep gc`.

The script writes two files: an operator's token, issued with the stack's signing key, and a mesh file with the
addresses of the stack's services. Both files are deleted together with the container.
"""

import os
import sys
from pathlib import Path

from common.auth.caller import Role
from common.auth.tokens import issue_token
from common.environment import home
from common.files import replace_file
from common.names import DEFAULT_TENANT
from deepseek.client import MeshFile, ServiceAddress, StoreAddress
from deepseek.services import SERVICES

IDENTITY = Path("/volumes/identity")
STORE = Path("/volumes/secrets/store")
HOMES = Path("/volumes/homes")
TOKEN_LIFETIME_S = 24 * 3600


def main() -> None:
    """Writes the token and the mesh file, and executes `deepseek` with this program's arguments."""
    token_file, audit = home() / "token", home() / "audit"
    audit.mkdir(mode=0o700, parents=True)
    for name in SERVICES:
        (audit / f"{name}.jsonl").symlink_to(HOMES / name / ".deepseek" / "audit" / f"{name}.jsonl")
    key = IDENTITY / "signing" / "key.pem"
    token = issue_token(key, "upkeep", tenant=DEFAULT_TENANT, role=Role.OPERATOR, lifetime_s=TOKEN_LIFETIME_S)
    replace_file(token_file, f"{token}\n".encode())
    services = {name: ServiceAddress(f"{name}:{one.port}") for name, one in SERVICES.items()}
    store = StoreAddress("s3+http://store:9000/artifacts", str(STORE / "access"), str(STORE / "secret"))
    MeshFile(services, store, str(IDENTITY / "cli"), str(token_file)).write(MeshFile.default_path())
    os.execvp("deepseek", ["deepseek", *sys.argv[1:]])


if __name__ == "__main__":
    main()
