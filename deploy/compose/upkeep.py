"""The command line as an operator of the running stack: `docker compose run --rm upkeep gc`.

It signs a token for itself, as whoever can read the key of tokens may, and tells the command line where everything
is. Both are gone with the container.
"""

import os
import sys
from pathlib import Path

from common.auth.caller import Role
from common.auth.identity import replace_file
from common.auth.tokens import issue_token
from common.config import home
from common.names import DEFAULT_TENANT
from deepseek.client import MeshFile, ServiceAddress, StoreAddress
from deepseek.embedded import PORTS

IDENTITY = Path("/volumes/identity")
STORE = Path("/volumes/secrets/store")
HOMES = Path("/volumes/homes")
TOKEN_LIFETIME_S = 24 * 3600


def main() -> None:
    """Becomes `deepseek` with the same arguments."""
    token_file, audit = home() / "token", home() / "audit"
    audit.mkdir(mode=0o700, parents=True)
    for name in PORTS:
        (audit / f"{name}.jsonl").symlink_to(HOMES / name / ".deepseek" / "audit" / f"{name}.jsonl")
    key = IDENTITY / "signing" / "key.pem"
    token = issue_token(key, "upkeep", tenant=DEFAULT_TENANT, role=Role.OPERATOR, lifetime_s=TOKEN_LIFETIME_S)
    replace_file(token_file, f"{token}\n".encode())
    services = {name: ServiceAddress(f"{name}:{port}") for name, port in PORTS.items()}
    store = StoreAddress("s3+http://store:9000/artifacts", str(STORE / "access"), str(STORE / "secret"))
    MeshFile(services, store, str(IDENTITY / "cli"), str(token_file)).write(MeshFile.default_path())
    os.execvp("deepseek", ["deepseek", *sys.argv[1:]])


if __name__ == "__main__":
    main()
