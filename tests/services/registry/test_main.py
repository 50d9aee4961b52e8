"""The registry as a process of its own."""

import json
import os
import signal
from pathlib import Path

from common.channel import open_channel
from common.processes import python, spawn
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from tests.harness.processes import wait_until

ROOT = Path(__file__).resolve().parents[3]


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    address_file = tmp_path / "registry.json"
    flags = ["--home", str(tmp_path), "--port", "0", "--address-file", str(address_file)]
    for attempt in ("first", "second"):
        process = spawn(
            python("services.registry", *flags, "--parent-pid", str(os.getpid())),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            log=tmp_path / f"{attempt}.log",
        )
        try:
            wait_until(address_file.exists, f"the {attempt} registry to answer")
            with open_channel(json.loads(address_file.read_text())["address"]) as channel:
                stub = registry_pb2_grpc.RegistryServiceStub(channel)
                if attempt == "first":
                    stub.CreateModel(pb.CreateModelRequest(model_id="m"))
                    process.kill()
                else:
                    assert stub.GetModel(pb.GetModelRequest(name="models/m")).model.name == "models/m"
                    process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert status == (-signal.SIGKILL if attempt == "first" else 0)
        address_file.unlink(missing_ok=True)
