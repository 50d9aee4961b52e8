"""Converts logits to and from protobuf messages.

Protobuf's Python library converts a repeated field one number at a time, which for 50,000 logits takes several times as
long as drawing a token. This module copies all logits as one array. It relies on the encoding of a packed `repeated
float`, which is the same as that of a `bytes` field with the same field number and content. `Any.value` is a
`bytes` field with the same field number as `Logits.values`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.any_pb2 import Any as AnyMessage

from deepseek.watermark.arrays import Real
from protos.watermark.v1 import watermark_pb2


def logits_message(logits: Real, *, tokens: Sequence[int] = (), sequence: int = 0) -> watermark_pb2.Logits:
    """Returns logits as a `Logits` message.

    Args:
        logits: Next-token logits of one sequence, one per token. They are converted to single precision; values beyond
            its range become infinite.
        tokens: Token that each logit belongs to; by default 0, 1, 2 and so on.
        sequence: Number that identifies the sequence within the stream of messages.

    Raises:
        ValueError: The logits do not have exactly one dimension.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(logits, "<f4")
    if values.ndim != 1:
        raise ValueError(f"the logits have shape {values.shape}; pass the logits of one sequence as a 1-D array")
    message = watermark_pb2.Logits.FromString(AnyMessage(value=values.tobytes()).SerializeToString())
    message.sequence = sequence
    message.tokens.extend(tokens)
    return message


def logits_values(message: watermark_pb2.Logits) -> npt.NDArray[np.float32]:
    """Returns the logits in a message as a read-only array with one dimension."""
    values: npt.NDArray[np.float32] = np.frombuffer(AnyMessage.FromString(message.SerializeToString()).value, "<f4")
    return values
