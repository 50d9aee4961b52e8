"""Creates what the stack's services need before they start: certificates, keys, passwords and the bucket.

This script runs at every `docker compose up` and leaves existing files unchanged. Secrets are stored in volumes, in
files that only their owner can read. Secrets are never printed, passed as arguments or put into environment variables.

    python init.py secrets
    python init.py bucket ENDPOINT BUCKET
"""

import os
import secrets
import sys
from pathlib import Path

import urllib3
from minio import Minio

from common.auth.certificates import make_authority, renew
from common.files import replace_file
from common.text_files import read_secret
from deepseek.services import SERVICES

IDENTITY = Path("/volumes/identity")
DATABASE = Path("/volumes/secrets/database")
STORE = Path("/volumes/secrets/store")
SECRETS = Path("/volumes/secrets")


def make_secrets() -> None:
    """Creates the certificate authority, the database password, the artifact store's keys and the services' secrets."""
    hosts = [host for host in os.environ["MESH_HOSTS"].split(",") if host]
    if not (IDENTITY / "ca.pem").exists():
        make_authority(IDENTITY, list(SERVICES), hosts=hosts)
    # The stack was created by a release without these services.
    elif new := [service for service in SERVICES if not (IDENTITY / service / "cert.pem").exists()]:
        renew(IDENTITY, names=new, hosts=hosts)
    if not (DATABASE / "pgpass").exists():
        password = secrets.token_hex(32)
        replace_file(DATABASE / "password", f"{password}\n".encode())
        # Written last, because its presence means that both files exist.
        replace_file(DATABASE / "pgpass", f"database:5432:mesh:mesh:{password}\n".encode())
    if not (STORE / "secret").exists():
        replace_file(STORE / "access", b"mesh\n")
        replace_file(STORE / "secret", f"{secrets.token_hex(32)}\n".encode())
    for service in SERVICES.values():
        for name in service.secrets.values():
            file = SECRETS / service.name / name
            # If a secret was lost, the service refuses the new secret while it has data that depends on the old one.
            if not file.exists():
                replace_file(file, f"{secrets.token_hex(32)}\n".encode())


def make_bucket(endpoint: str, bucket: str) -> None:
    """Creates the bucket of the artifact store unless the bucket already exists."""
    client = Minio(
        endpoint,
        access_key=read_secret(STORE / "access"),
        secret_key=read_secret(STORE / "secret"),
        secure=False,
        http_client=urllib3.PoolManager(timeout=10, retries=urllib3.Retry(total=5, backoff_factor=0.5)),
    )
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["secrets"]:
            make_secrets()
        case ["bucket", endpoint, bucket]:
            make_bucket(endpoint, bucket)
        case _:
            sys.exit(__doc__)
