"""What the nodes of a simulated federation do: deterministic training, wrong replies, and no replies."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from deepseek.federated.arrays import from_bytes, to_bytes
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.reported_release import figures_of

MODEL = {"bias": np.float32([0.5, -0.5]), "weight": np.arange(6, dtype=np.float32).reshape(2, 3)}

Behaviour = Callable[[Task], list[TaskReply]]
"""Returns the replies to a task."""


def honest(task: Task) -> list[TaskReply]:
    """Trains: the reply depends only on the seed of the run, the round, the node and the model."""
    config, model = task.config, from_bytes(task.arrays)
    key = f"{config['seed']}.{config['round']}.{config['node']}".encode() + task.arrays
    random = np.random.default_rng(list(hashlib.sha256(key).digest()))
    update = {name: random.normal(size=array.shape).astype(np.float32) for name, array in model.items()}
    loss = float(random.uniform())
    num_examples = int(random.integers(1, 100))
    release = FitSettings.from_json(config.get("fit", {})).release
    metrics = figures_of(release) if release else {"loss": loss}
    return [TaskReply(task.task_id, task.node_id, to_bytes(update), num_examples, metrics)]


def changed(**changes: Any) -> Behaviour:
    """Replies as an honest node does, with other values of some fields."""
    return lambda task: [replace(reply, **changes) for reply in honest(task)]


def scaled(factor: float) -> Behaviour:
    """Sends the update of an honest node, multiplied in float32."""

    def behave(task: Task) -> list[TaskReply]:
        (reply,) = honest(task)
        with np.errstate(over="ignore", invalid="ignore"):
            update = {name: array * np.float32(factor) for name, array in from_bytes(reply.arrays).items()}
        return [replace(reply, arrays=to_bytes(update))]

    return behave


def silent(task: Task) -> list[TaskReply]:
    """Never replies."""
    return []
