"""Our proto of the Open Inference Protocol against the one that stock clients are made of."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.channel import open_channel
from tests.services.inference.conftest import InferenceServer

ROOT = Path(__file__).resolve().parents[3]
DUMP = Path(__file__).with_name("dump_descriptors.py")
ADDED = ("inference.ModelMetadataResponse", "parameters")
"""An extension of MLServer that we share, and that Triton's clients do not know."""
PARTIAL = {f"inference.{name}" for name in ("ModelConfig", "ModelInput", "ModelOutput")} | {
    "inference.ModelStatistics",
    "inference.InferStatistics",
}
"""Messages of Triton's extensions of which we declare only the fields that we can state."""
ADDED_ENTRY = "inference.ModelMetadataResponse.ParametersEntry"


def dump(module: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(DUMP), module], capture_output=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    contract: dict[str, Any] = json.loads(done.stdout)
    return contract


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return dump("protos.inference.v2.inference_pb2")


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    service, config = (dump(f"tritonclient.grpc.{name}") for name in ("service_pb2", "model_config_pb2"))
    return {"messages": service["messages"] | config["messages"], "methods": service["methods"]}


def test_every_message_has_the_same_fields(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert len(ours["messages"]) >= 28
    for name, fields in ours["messages"].items():
        if name != ADDED_ENTRY:
            common = {field: wire for field, wire in fields.items() if (name, field) != ADDED}
            complete = theirs["messages"][name]
            assert common == {field: complete[field] for field in common}, name
            assert name in PARTIAL or set(common) == set(complete), name


def test_the_added_field_has_a_number_of_its_own(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    message, field = ADDED
    added = ours["messages"][message][field]
    assert added["message"] == ADDED_ENTRY
    assert added["number"] not in {wire["number"] for wire in theirs["messages"][message].values()}


def test_every_method_has_the_same_signature(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert len(ours["methods"]) == 11
    for name, signature in ours["methods"].items():
        assert signature == theirs["methods"][name], name


ASK = """
stub = inference_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
assert stub.ServerLive(inference_pb2.ServerLiveRequest()).live
"""
ASK_AS_STOCK_CLIENT = """
assert triton.InferenceServerClient(address).is_server_live()
"""


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_program_may_use_our_client_and_a_stock_one(served: InferenceServer, ours_first: bool) -> None:
    both = ["import deepseek.client.inference", "import tritonclient.grpc as triton"]
    imports = [*(both if ours_first else reversed(both)), "import grpc", f"address = {served.address!r}"]
    imports.append("from protos.inference.v2 import inference_pb2, inference_pb2_grpc")
    run_program("\n".join(imports) + ASK + ASK_AS_STOCK_CLIENT)


REGISTER_AS_OTHERS_DO = """
from google.protobuf import descriptor_pb2, descriptor_pool
contract = descriptor_pb2.FileDescriptorProto(name="dataplane.proto", package="inference", syntax="proto3")
contract.message_type.add(name="ModelInferRequest").field.add(name="other", number=9, type=3, label=1)
contract.service.add(name="GRPCInferenceService").method.add(
    name="ModelInfer", input_type="inference.ModelInferRequest", output_type="inference.ModelInferRequest"
)
descriptor_pool.Default().AddSerializedFile(contract.SerializeToString())
"""
CHECK_OURS = """
from common.auth.access import role_of_methods
from common.contracts import find_service
from protos.inference.v2 import inference_pb2
request = inference_pb2.ModelInferRequest(model_name="x")
assert inference_pb2.ModelInferRequest.FromString(request.SerializeToString()).model_name == "x"
assert len(find_service("inference.GRPCInferenceService").methods) == 11
assert len(role_of_methods(["inference.GRPCInferenceService"])) == 12
"""


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_process_may_hold_any_other_module_of_the_protocol(ours_first: bool) -> None:
    """Like the contracts of kserve and mlserver, which differ from ours."""
    parts = [CHECK_OURS, REGISTER_AS_OTHERS_DO]
    run_program("".join(parts if ours_first else reversed(parts)) + CHECK_OURS)


def run_program(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_reflection_answers_with_the_names_of_the_protocol(served: InferenceServer) -> None:
    symbols = [
        "inference.GRPCInferenceService",
        "inference.ModelInferRequest",
        "deepseek.auth.v1.role",
        "google.protobuf.MethodOptions",
        "google.rpc.ErrorInfo",
    ]
    with open_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = stub.ServerReflectionInfo(iter([listing]))
        symbols += [service.name for service in listed.list_services_response.service]
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        answers = list(stub.ServerReflectionInfo(iter(requests)))
    pool = DescriptorPool()
    for symbol, answer in zip(symbols, answers, strict=True):
        assert answer.file_descriptor_response.file_descriptor_proto, symbol
        for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.AddSerializedFile(file)
        assert pool.FindFileContainingSymbol(symbol)
    method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelInfer"]
    assert method.input_type.full_name == "inference.ModelInferRequest"
