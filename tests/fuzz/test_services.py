"""Whatever a caller sends, a service answers it or says what is wrong with it: it never fails, and it lives on."""

import re
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from common.channel import from_status
from common.service import Uses
from deepseek.services import SERVICES
from protos.federated.v1 import federated_pb2, federated_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from tests.fuzz.mesh import FuzzedMesh, fuzzed_mesh
from tests.fuzz.messages import changed, damaged
from tests.fuzz.profile import fuzz
from tests.harness.contracts import Method, all_methods, hosted
from tests.harness.examples import SHARED, examples_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FAILURES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
MAX_MESSAGES = 3


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedMesh]:
    with fuzzed_mesh(tmp_path_factory.mktemp("fuzz") / "home") as made:
        yield made
        assert not made.logged_bugs()
        assert not jobs_that_failed_by_a_bug(made)


def jobs_that_failed_by_a_bug(mesh: FuzzedMesh) -> list[str]:
    found = []
    for service in (name for name, declared in SERVICES.items() if Uses.JOBS in declared.uses):
        stub = job_pb2_grpc.JobServiceStub(mesh.channels[service])
        for job in stub.ListJobs(job_pb2.ListJobsRequest(page_size=1000)).jobs:
            if job.error.code in ("INTERNAL", "UNKNOWN"):
                found.append(f"{service}: {job}")
    return found


def called(mesh: FuzzedMesh, method: Method, requests: list[bytes]) -> grpc.RpcError | None:
    """Calls a method; how it was refused, if it was."""
    try:
        mesh.call(method, requests)
    except grpc.RpcError as error:
        return error
    finally:
        if method.name in ("SubmitRun", "StartRun"):
            stop_all(mesh)
    return None


def check(mesh: FuzzedMesh, method: Method, requests: list[bytes]) -> None:
    """Calls a method; a refusal has to be one of ours, but for health's, which is gRPC's."""
    refusal = called(mesh, method, requests)
    if refusal is not None:
        assert refusal.code() not in FAILURES, f"{refusal.code().name}: {refusal.details()}"
        if method.contract == "grpc.health.v1.Health":
            return
        status = rpc_status.from_call(refusal)
        assert status is not None, f"{refusal.code().name} without details: {refusal.details()}"
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in status.details), status
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", info.reason), info


def test_no_service_is_left_out(mesh: FuzzedMesh) -> None:
    for name, channel in mesh.channels.items():
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(stub.ServerReflectionInfo(iter([request]))).list_services_response.service
        assert sorted(one.name for one in listed) == sorted(hosted(name))


@pytest.mark.parametrize("method", all_methods(), ids=str)
def test_what_is_changed_later_is_taken_as_it_stands(mesh: FuzzedMesh, method: Method) -> None:
    requests = [request.SerializeToString() for request in mesh.valid(method, 1)]
    refusal = called(mesh, method, requests)
    reason = "" if refusal is None else from_status(refusal).reason
    assert reason == {**SHARED.refused, **examples_of(method.service).refused}.get(method.name, "")


@pytest.mark.parametrize("method", all_methods(), ids=str)
@fuzz(25)
@given(data=st.data())
def test_any_message_is_answered_or_refused(mesh: FuzzedMesh, method: Method, data: st.DataObject) -> None:
    num_messages = data.draw(st.integers(1, MAX_MESSAGES)) if method.descriptor.client_streaming else 1
    requests = [data.draw(changed(valid, mesh.known)) for valid in mesh.valid(method, num_messages)]
    check(mesh, method, [request.SerializeToString() for request in requests])


@pytest.mark.parametrize("method", all_methods(), ids=str)
@fuzz(10)
@given(data=st.data())
def test_any_bytes_are_answered_or_refused(mesh: FuzzedMesh, method: Method, data: st.DataObject) -> None:
    num_messages = data.draw(st.integers(1, MAX_MESSAGES)) if method.descriptor.client_streaming else 1
    requests = [data.draw(damaged(valid.SerializeToString())) for valid in mesh.valid(method, num_messages)]
    check(mesh, method, requests)


def stop_all(mesh: FuzzedMesh) -> None:
    """Keeps runs that were taken from being trained."""
    stub = trainer_pb2_grpc.TrainerServiceStub(mesh.channels["trainer"])
    for run in stub.ListRuns(trainer_pb2.ListRunsRequest(page_size=5)).runs:
        stub.StopRun(trainer_pb2.StopRunRequest(name=run.name))
    federated = federated_pb2_grpc.FederatedServiceStub(mesh.channels["federated"])
    for federation in federated.ListFederations(federated_pb2.ListFederationsRequest(page_size=1000)).federations:
        active = federated_pb2.ListRunsRequest(parent=federation.name, active_only=True)
        for one in federated.ListRuns(active).runs:
            federated.StopRun(federated_pb2.StopRunRequest(name=one.name))
