"""Specs of studies that tests use, and what their tests share."""

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from deepseek.client.studies import Studies
from protos.tuner.v1 import tuner_pb2

SPEC: dict[str, Any] = {
    "parameters": [
        {"name": "rate", "float_range": {"low": 1e-5, "high": 0.1, "log": True}},
        {"name": "depth", "integer_range": {"low": 1, "high": 8}},
        {"name": "optimizer", "choices": {"values": ["adam", "sgd"]}},
        {
            "name": "momentum",
            "float_range": {"low": 0, "high": 0.9},
            "conditions": [{"parameter": "optimizer", "values": ["sgd"]}],
        },
    ],
    "objectives": [{"metric": "loss", "goal": "GOAL_MINIMIZE"}],
    "algorithm": {"name": "tpe", "params": {"n_startup_trials": 5}},
    "pruner": {"name": "asha"},
    "seed": 7,
}

RUN_STUDY_SPEC: dict[str, Any] = {
    "parameters": [
        {"name": "optimizer.params.lr", "float_range": {"low": 1e-4, "high": 0.1, "log": True}},
        {"name": "batch", "integer_range": {"low": 8, "high": 16, "step": 8}},
    ],
    "objectives": [{"metric": "accuracy", "goal": "GOAL_MAXIMIZE"}],
    "algorithm": {"name": "random"},
    "seed": 5,
}
"""A study whose trials are runs of `picture_spec`. The parameter `batch` sets the field `batch_size`."""
BATCH = {"batch": "batch_size"}

Start = Callable[..., Studies]
"""Starts a tuner, and returns a client of it."""


def parameters(trial: tuner_pb2.Trial) -> dict[str, Any]:
    """Returns the parameters of a trial."""
    return json_format.MessageToDict(trial.parameters)
