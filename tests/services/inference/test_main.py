"""The inference server as a process of its own."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np

from common.channel import open_channel
from common.processes import python, spawn
from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.harness.processes import wait_until
from tests.services.inference.models import Publisher, scale_model
from tests.services.inference.requests import infer_request, load

ROOT = Path(__file__).resolve().parents[3]


def is_ready(stub: GRPCInferenceServiceStub) -> bool:
    ready: bool = stub.ServerReady(pb.ServerReadyRequest()).ready
    return ready


def test_after_a_kill_the_same_version_answers_without_the_registry(
    publisher: Publisher, registry_address: str, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    address_file = tmp_path / "inference.json"
    flags = ["--home", str(tmp_path), "--port", "0", "--parent-pid", str(os.getpid())]
    flags += ["--address-file", str(address_file)]
    for registry in (registry_address, "127.0.0.1:1"):
        process = spawn(
            python("services.inference", *flags, "--registry", registry),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            log=tmp_path / "inference.log",
        )
        try:
            wait_until(address_file.exists, "the server to answer")
            with open_channel(json.loads(address_file.read_text())["address"]) as channel:
                stub = GRPCInferenceServiceStub(channel)
                if registry == registry_address:
                    load(stub, "m", "1")
                wait_until(partial(is_ready, stub), "the models to be restored")
                response = stub.ModelInfer(infer_request())
                assert response.model_version == "1"
                assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [2.0] * 6
            process.send_signal(signal.SIGKILL if registry == registry_address else signal.SIGTERM)
            status = process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert status == (-signal.SIGKILL if registry == registry_address else 0)
        address_file.unlink(missing_ok=True)
