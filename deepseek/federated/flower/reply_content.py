"""What the content of a node's reply says. No part of it is trusted, because a node may send anything."""

from typing import TypeVar

from flwr.app import RecordDict

from deepseek.federated.flower.client_app import ARRAYS, ERROR, METRICS, UPDATE, WORK
from protos.federated.v1 import relay_pb2

_MAX_METRICS = 1000
_MAX_METRIC_NAME = 200
_MAX_MESSAGE = 4000

_T = TypeVar("_T", int, float)


def result_of(content: RecordDict, max_reply_bytes: int) -> relay_pb2.Update | relay_pb2.Failure:
    """Returns the result in a node's reply.

    Args:
        content: Content of the reply.
        max_reply_bytes: Largest arrays that are accepted, in bytes.
    """
    if (error := content.config_records.get(ERROR)) is not None:
        reason, message = str(error.get("reason", "CLIENT_ERROR")), str(error.get("message", ""))
        return failure(reason, message)
    try:
        arrays = content.array_records[UPDATE][ARRAYS].data
        work, metrics = content.metric_records[WORK], content.metric_records[METRICS]
        if len(metrics) > _MAX_METRICS:
            return failure("BAD_REPLY", f"the reply has {len(metrics)} metrics; the limit is {_MAX_METRICS}")
        if any(len(name) > _MAX_METRIC_NAME for name in metrics):
            return failure("BAD_REPLY", f"the name of a metric has more than {_MAX_METRIC_NAME} characters")
        update = relay_pb2.Update(
            num_examples=_number(work["num-examples"], int),
            metrics={str(name): _number(value, float) for name, value in metrics.items()},
            train_s=_number(work["train_s"], float),
            load_s=_number(work["load_s"], float),
        )
    except (KeyError, TypeError, ValueError) as problem:
        return failure("BAD_REPLY", f"the reply lacks a record or a value has another type: {problem}")
    if len(arrays) > max_reply_bytes:
        return failure("OVERSIZED", f"the update has {len(arrays)} bytes; the limit is {max_reply_bytes}")
    update.arrays = arrays
    return update


def failure(reason: str, message: str) -> relay_pb2.Failure:
    """Returns a failure whose texts have bounded lengths."""
    return relay_pb2.Failure(reason=reason[:100], message=message[:_MAX_MESSAGE])


def _number(value: object, kind: type[_T]) -> _T:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise TypeError(f"{value!r:.100} is not a number of the type {kind.__name__}")
    return kind(value)
