"""Makes what the stack needs before it can start: certificates, keys and passwords, and the bucket.

What is there already is left alone, so it runs at every `docker compose up`. Secrets are files that their owner alone
can read, in volumes; they are never printed, passed as arguments or put into the environment.

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
from common.auth.identity import replace_file
from common.text_files import read_secret

SERVICES = ("registry", "ingest", "trainer", "watermark", "inference")
IDENTITY = Path("/volumes/identity")
DATABASE = Path("/volumes/secrets/database")
STORE = Path("/volumes/secrets/store")
WATERMARK = Path("/volumes/secrets/watermark")


def make_secrets() -> None:
    """The authority, the database's password, the store's keys, the master key of marks."""
    hosts = [host for host in os.environ["MESH_HOSTS"].split(",") if host]
    if not (IDENTITY / "ca.pem").exists():
        make_authority(IDENTITY, SERVICES, hosts=hosts)
    # A stack that was made before there was a service.
    elif new := [service for service in SERVICES if not (IDENTITY / service / "cert.pem").exists()]:
        renew(IDENTITY, names=new, hosts=hosts)
    if not (DATABASE / "pgpass").exists():
        password = secrets.token_hex(32)
        replace_file(DATABASE / "password", f"{password}\n".encode())
        # Last, since it is what says that both are there.
        replace_file(DATABASE / "pgpass", f"database:5432:mesh:mesh:{password}\n".encode())
    if not (STORE / "secret").exists():
        replace_file(STORE / "access", b"mesh\n")
        replace_file(STORE / "secret", f"{secrets.token_hex(32)}\n".encode())
    # If it was lost, the service refuses the new one as long as there are keys of the old one.
    if not (WATERMARK / "master").exists():
        replace_file(WATERMARK / "master", f"{secrets.token_hex(32)}\n".encode())


def make_bucket(endpoint: str, bucket: str) -> None:
    """The bucket of the artifact store."""
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
