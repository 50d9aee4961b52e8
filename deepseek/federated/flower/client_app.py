"""The client app: passes each task on to the node's persistent worker, and the reply back.

Flower starts a process per message and loads this module in it, so it imports no large package, such as torch or
pyarrow. The arrays pass through as opaque safetensors bytes in a Flower `Array`, which Flower sends in chunks; nothing
is pickled. The node's configuration (`supernode`) names the work folder.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, MetricRecordValues, RecordDict
from flwr.clientapp import ClientApp

from common.errors import MeshError
from common.processes import python
from deepseek.federated.flower.fab import POLICY_KEYS
from deepseek.federated.product import product_version
from deepseek.federated.worker_link import call, detached

MODEL, TASK, UPDATE, WORK, METRICS, ERROR = "model", "task", "update", "work", "metrics", "error"
"""Names of the records of a message."""

GREETING = "greeting"
"""Key in the task of a greeting: the app replies when the time is a multiple of this number of seconds; 0 means now."""

ARRAYS = "safetensors"
"""Name of the only array of an array record, and how its bytes are serialized."""

WORKER = "worker"
"""Key of the node's configuration: module of the worker, if it is not the standard one."""

_MAX_ALIGN_S = 10.0

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answers a `fit` task."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answers an `evaluate` task."""
    return _answer(message, context)


@app.query()
def greet(message: Message, context: Context) -> Message:
    """Answers a greeting."""
    align_s = float(str(message.content.config_records[TASK][GREETING]))
    if align_s > 0:
        time.sleep(min(-time.time() % align_s, _MAX_ALIGN_S))
    return Message(RecordDict(), reply_to=message)


def opaque(data: bytes) -> ArrayRecord:
    """Returns a record that carries bytes which Flower does not interpret."""
    return ArrayRecord({ARRAYS: Array(dtype="uint8", shape=(len(data),), stype=ARRAYS, data=data)})


def _answer(message: Message, context: Context) -> Message:
    try:
        content = _work(message.content, context)
    except MeshError as error:
        content = _failed(error.reason, error.message, error.field)
    return Message(content, reply_to=message)


def _work(content: RecordDict, context: Context) -> RecordDict:
    work_folder = Path(str(context.node_config["work-folder"]))
    task = content.config_records[TASK]
    header = {
        **json.loads(str(task["json"])),
        "kind": str(task["kind"]),
        "data": str(context.node_config.get("data", "")),
        "version": product_version(),
        "policy": {
            key.replace("-", "_"): context.node_config[key] for key in POLICY_KEYS if key in context.node_config
        },
        "supernode_pid": _superexec_pid(),
    }
    module = str(context.node_config.get(WORKER, "deepseek.federated.worker"))
    reply, arrays = call(
        work_folder,
        header,
        content.array_records[MODEL][ARRAYS].data,
        start=detached(python(module, str(work_folder))),
        max_reply_bytes=int(str(task["max_reply_bytes"])),
    )
    if error := reply.get("error"):
        return _failed(error["reason"], error["message"], error.get("field", ""))
    metrics: dict[str, MetricRecordValues] = {str(name): float(value) for name, value in reply["metrics"].items()}
    work = {name: float(reply.get(name, 0.0)) for name in ("train_s", "load_s")}
    return RecordDict(
        {
            UPDATE: opaque(arrays),
            METRICS: MetricRecord(metrics),
            WORK: MetricRecord({"num-examples": int(reply["num_examples"]), **work}),
        }
    )


def _superexec_pid() -> int:
    """Returns the id of the process that starts client apps. That process ends when the SuperNode ends."""
    if "--parent-pid" in sys.argv:
        return int(sys.argv[sys.argv.index("--parent-pid") + 1])
    return os.getppid()


def _failed(reason: Any, message: Any, field: Any) -> RecordDict:
    return RecordDict({ERROR: ConfigRecord({"reason": str(reason), "message": str(message), "field": str(field)})})
