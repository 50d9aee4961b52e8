"""The edge of the stack: who comes in, to what, by which protocols, and what it reports."""

import http.client
import json
import os
import socket
import ssl
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from common.auth import Role
from common.auth.identity import SERVICE_HEADER, TENANT_HEADER
from common.channel import open_channel
from common.errors import MeshError, PermissionDenied, Unauthenticated
from deepseek.client import Mesh, MeshFile, connect
from deepseek.services import SERVICES
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2
from tests.common.telemetry.spans import read_spans
from tests.e2e.access import ATTEMPTS, REFUSED, GuardedMesh, of_another_tenant, requests_about
from tests.e2e.compose.stack import EDGE_S, MODEL, Stack, call, refuses, token_of
from tests.e2e.small_job import SPEC
from tests.harness.contracts import EVERYWHERE, OURS, Method, methods_of
from tests.harness.examples import Existing
from tests.harness.identity import Authority, Metadata, bearer
from tests.harness.processes import wait_until
from tests.services.federated.examples import public_key

pytestmark = [pytest.mark.compose, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

LIST_MODELS = "/deepseek.registry.v1.RegistryService/ListModels"


def test_a_call_without_a_token_is_refused(stack: Stack) -> None:
    with pytest.raises(Unauthenticated):
        call(stack)


def test_a_token_that_somebody_else_signed_is_refused(stack: Stack) -> None:
    header, payload, signature = token_of(stack).split(".")
    with pytest.raises(Unauthenticated):
        call(stack, f"{header}.{payload}.{signature[::-1]}")


def test_a_reader_may_look_but_not_write(stack: Stack, served: str, tmp_path: Path) -> None:
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
    wait_until(lambda: not refuses(stack, new), "a token of the new key to be accepted", timeout_s=EDGE_S)
    assert not refuses(stack, old)
    stack.engine.docker(*certs, "rotate", "--revoke", "/volumes/identity")
    wait_until(lambda: refuses(stack, old) and refuses(stack, new), "earlier tokens to be refused", timeout_s=EDGE_S)
    stack.join()
    stack.engine.docker(*certs, "renew", "/volumes/identity")
    wait_until(
        lambda: ssl.get_server_certificate(("localhost", stack.port)) != certificate,
        "a new certificate to be shown",
        timeout_s=EDGE_S,
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
def outside(stack: Stack, tmp_path: Path) -> GuardedMesh:
    """Every method of every service, with the key that signs tokens."""
    (tmp_path / "signing").mkdir()
    key = stack.shell("docker compose run --rm -T --entrypoint cat upkeep /volumes/identity/signing/key.pem")
    (tmp_path / "signing" / "key.pem").write_text(key.stdout)
    names = [*OURS, *EVERYWHERE]
    # Each at each service: several have jobs.
    methods = [method for service in SERVICES for name in names for method in methods_of(service, name)]
    return GuardedMesh(MeshFile.read(stack.home / "mesh.json"), Authority(tmp_path), methods)


def meant_for(service: str, metadata: Metadata) -> Metadata:
    return (*metadata, (SERVICE_HEADER, service))


def has_no_route(method: Method) -> bool:
    return not NO_ROUTE.isdisjoint((method.path[1:], method.path[1:].partition("/")[0]))


def test_what_has_no_route_cannot_be_reached_by_an_operator_either(stack: Stack, outside: GuardedMesh) -> None:
    reached = set()
    operator = bearer(outside.authority.token(Role.OPERATOR, "default"))
    with outside.channel("registry", stack.ca) as channel:
        for method in outside.methods:
            if method.outcome(channel, b"", meant_for(method.service, operator)) != grpc.StatusCode.UNIMPLEMENTED:
                reached.add(method.path)
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/deepseek.other.v1.Other/Get")(b"", metadata=operator, timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reached == {method.path for method in outside.methods if not has_no_route(method)}


@pytest.mark.parametrize("attempt", THROUGH_THE_EDGE)
def test_every_method_refuses_through_the_edge(stack: Stack, outside: GuardedMesh, attempt: str) -> None:
    holes = []
    with outside.channel("registry", stack.ca) as channel:
        for method in outside.methods:
            _, metadata = ATTEMPTS[attempt](outside.authority, method)
            found = method.outcome(channel, b"", meant_for(method.service, metadata))
            # A service that does not have the method says so to those who have a token; health is open to them all.
            least = {grpc.StatusCode.UNIMPLEMENTED} if attempt == "wrong role" else set()
            if found not in REFUSED | least and not (least and method.path == "/grpc.health.v1.Health/Check"):
                holes.append(f"{method.path} of {method.service}: {found!r}")
    assert not holes


def stopped_federated_run(mesh: Mesh, dataset_version: str) -> dict[str, str]:
    """Starts and stops a federated run, and returns what requests about it name."""
    federation = mesh.federated.create("clinics").name
    node = mesh.federated.register(federation, "north", public_key()).name
    network = {**SPEC["model"], "params": {**SPEC["model"]["params"], "norm": "group"}}
    model = {**SPEC, "model": network, "dataset_version": dataset_version}
    run = mesh.federated.start(federation, {"model": model, "num_rounds": 1, "target_model": "models/common"}).name
    mesh.federated.stop(run)
    return {"federation": federation, "federated_node": node, "federated_run": run}


def test_nothing_of_another_tenant_is_found_through_the_edge_whoever_one_claims_to_be(
    stack: Stack, outside: GuardedMesh, served: str
) -> None:
    mine = bearer(outside.authority.token(Role.ADMIN, "default"))
    claimed = ((TENANT_HEADER, "default"), ("deepseek-subject", "service:trainer"))
    theirs = (*bearer(outside.authority.token(Role.ADMIN, "other")), *claimed)
    nobody = bearer(outside.authority.forged(role=""))
    wrong, found = [], set()
    with outside.channel("registry", stack.ca) as channel:
        # Not every service has jobs, and health has no roles.
        hosted = [
            method
            for method in outside.methods
            if method.outcome(channel, b"", meant_for(method.service, nobody)) in REFUSED
        ]
        with stack.connect() as mesh:
            data = next(iter(mesh.datasets.versions(MODEL))).name
            run = next(name for name in mesh.models.version(served).sources if name.startswith("runs/"))
            known = {"dataset_version": data, "run": run, "model_version": served, "served_model": MODEL}
            has = Existing(mesh, **known, **stopped_federated_run(mesh, data))
            requests = requests_about(has, hosted)
        for method, request, missing in of_another_tenant(requests):
            answers = [
                method.outcome(channel, request, meant_for(method.service, who))
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
        *names, last = SERVICES
        with pytest.raises(MeshError, match=f"deepseek-service: {', '.join(names)} or {last}"):
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
    wait_until(lambda: list(figures("up", "instance").values()) == ["1"] * (1 + len(SERVICES)), "figures from everyone")


def test_the_edge_takes_every_service_for_well(stack: Stack) -> None:
    query, well = "envoy_cluster_health_check_healthy", dict.fromkeys(SERVICES, "1")
    wait_until(lambda: figures(query, "envoy_cluster_name") == well, "healthy services")
