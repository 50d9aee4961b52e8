"""The client app with a real worker, and what it imports."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import ConfigRecord, ConfigRecordValues, Context, Message, RecordDict, UserConfig
from flwr.supercore.task_identity import TaskIdentity

from deepseek.federated.flower import client_app
from deepseek.federated.flower.client_app import ARRAYS, ERROR, METRICS, MODEL, TASK, UPDATE, WORK, opaque
from deepseek.federated.product import product_version
from tests.deepseek.federated.started import Started

MODEL_BYTES = safetensors.numpy.save({"w": np.zeros(2, np.float32)})


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    # Flower's processes set these before they load an app, and a message cannot be made without them.
    for name, value in {"run_id": 1, "task_id": 3, "node_id": 2}.items():
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)
    with tempfile.TemporaryDirectory(prefix="c") as folder, contextlib.ExitStack() as processes:
        monkeypatch.setattr(client_app, "detached", lambda argv: processes.enter_context(Started(argv)))
        config: UserConfig = {"work-folder": folder, "data": "d", "worker": "adding_worker"}
        yield Context(run_id=1, node_id=2, node_config=config, state=RecordDict(), run_config={})


def run(context: Context, config: dict[str, Any], *, limit: int = 1 << 20) -> RecordDict:
    values: dict[str, ConfigRecordValues] = {"json": json.dumps(config), "kind": "fit", "max_reply_bytes": limit}
    content = RecordDict({TASK: ConfigRecord(values), MODEL: opaque(MODEL_BYTES)})
    message = Message(content, dst_node_id=2, message_type="train")
    return client_app.app(message=message, context=context).content


def test_the_worker_gets_the_task_and_its_reply_comes_back(context: Context) -> None:
    content = run(context, {"run": "r", "loss": 0.25})
    arrays = content.array_records[UPDATE][ARRAYS].data
    np.testing.assert_array_equal(safetensors.numpy.load(arrays)["w"], np.ones(2, np.float32))
    assert dict(content.metric_records[WORK]) == {"num-examples": 8, "train_s": 0.25, "load_s": 0.125}
    assert content.metric_records[METRICS]["loss"] == 0.25


def test_the_worker_learns_about_the_node(context: Context, tmp_path: Path) -> None:
    echo = tmp_path / "header.json"
    run(context, {"run": "r", "echo": str(echo)})
    header = json.loads(echo.read_text())
    assert (header["kind"], header["run"], header["data"], header["version"]) == ("fit", "r", "d", product_version())
    assert isinstance(header["supernode_pid"], int)


def test_the_worker_learns_the_policy_of_the_node(context: Context, tmp_path: Path) -> None:
    echo = tmp_path / "header.json"
    run(context, {"run": "r", "echo": str(echo), "policy": {"min_noise": 0.0}})
    assert json.loads(echo.read_text())["policy"] == {}
    context.node_config |= {"min-noise": 1.5, "max-steps": 10, "ignore-budget": True}
    run(context, {"run": "r", "echo": str(echo), "policy": {"min_noise": 0.0}})
    assert json.loads(echo.read_text())["policy"] == {"min_noise": 1.5, "max_steps": 10, "ignore_budget": True}


def test_a_failure_of_the_worker_is_an_answer(context: Context) -> None:
    error = run(context, {"fail": True}).config_records[ERROR]
    assert dict(error) == {"reason": "NO_EXAMPLES", "message": "the node has no examples", "field": "data"}


def test_a_worker_that_ends_is_an_answer(context: Context) -> None:
    error = run(context, {"crash": True}).config_records[ERROR]
    assert error["reason"] == "WORKER_DIED"
    assert "crashed on request" in str(error["message"])


def test_a_reply_over_the_limit_is_not_loaded(context: Context) -> None:
    error = run(context, {"reply_bytes": 101}, limit=100).config_records[ERROR]
    assert error["reason"] == "OVERSIZED"


def test_the_apps_import_no_large_package() -> None:
    program = (
        "import sys, deepseek.federated.flower.client_app, deepseek.federated.flower.relay_app;"
        "print(*sorted(name for name in sys.modules if '.' not in name))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "flwr" in loaded
    assert {"torch", "pandas", "scipy", "pyarrow", "safetensors", "onnx", "opacus"}.isdisjoint(loaded)
