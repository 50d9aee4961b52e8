"""Our proto of the Open Inference Protocol against the one that stock clients are made of."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DUMP = Path(__file__).with_name("dump_descriptors.py")


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
    return dump("tritonclient.grpc.service_pb2")


def test_every_message_has_the_same_fields(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert len(ours["messages"]) >= 28
    for name, fields in ours["messages"].items():
        assert fields == theirs["messages"][name], name


def test_every_method_has_the_same_signature(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert len(ours["methods"]) == 9
    for name, signature in ours["methods"].items():
        assert signature == theirs["methods"][name], name
