"""Logits as protobuf messages.

Protobuf's Python converts a repeated field one number at a time, which for 50,000 logits takes several times as long as
a draw. Here they are copied as one array: on the wire a packed `repeated float` is the bytes of its numbers, and a
field of type `bytes` with the same number has the same encoding. `Any.value` is such a field for `Logits.values`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.any_pb2 import Any as AnyMessage

from deepseek.watermark.arrays import Real
from protos.watermark.v1 import watermark_pb2


def logits_message(logits: Real, *, tokens: Sequence[int] = (), sequence: int = 0) -> watermark_pb2.Logits:
    """Returns logits as a message.

    Args:
        logits: (tokens,), converted to single precision; numbers beyond its range become infinite.
        tokens: Tokens they belong to; all from 0 on by default.
        sequence: Sequence that the drawn token continues.

    Raises:
        ValueError: The logits have another number of dimensions.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(logits, "<f4")
    if values.ndim != 1:
        raise ValueError(f"logits have the shape {values.shape}; pass those of one sequence, (tokens,)")
    message = watermark_pb2.Logits.FromString(AnyMessage(value=values.tobytes()).SerializeToString())
    message.sequence = sequence
    message.tokens.extend(tokens)
    return message


def logits_values(message: watermark_pb2.Logits) -> npt.NDArray[np.float32]:
    """Returns the logits of a message, (tokens,), read-only."""
    values: npt.NDArray[np.float32] = np.frombuffer(AnyMessage.FromString(message.SerializeToString()).value, "<f4")
    return values
