"""Logits in messages equal those of protobuf's conversion in every encoding."""

import math
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from deepseek.watermark.text.logits_message import logits_message, logits_values
from protos.watermark.v1 import watermark_pb2 as pb

VALUES = [0.0, -0.0, 1.5, -math.inf, math.inf, 2.0**-149, 3.4028234663852886e38]


@pytest.mark.parametrize("number", [0, 1, 31, 32, 4095, 50_000])
def test_values_survive_a_message(number: int) -> None:
    values = np.random.default_rng(number).normal(0, 3, number).astype(np.float32)
    message = logits_message(values, tokens=[7, 300], sequence=-5)
    assert message == pb.Logits(values=values, tokens=[7, 300], sequence=-5)
    found = logits_values(pb.Logits.FromString(message.SerializeToString()))
    assert (found.dtype, found.tolist()) == (np.float32, values.tolist())


@pytest.mark.parametrize("logits", [VALUES, np.array(VALUES), np.array(VALUES, np.float32), np.array(VALUES)[::-1]])
def test_a_message_has_the_numbers_that_protobuf_converts(logits: Sequence[float]) -> None:
    message = logits_message(logits)
    assert message == pb.Logits(values=logits)
    assert logits_values(message).tobytes() == np.array(logits, np.float32).tobytes()


def test_numbers_beyond_single_precision_become_infinite() -> None:
    assert logits_values(logits_message(np.array([1e39, -1e39]))).tolist() == [math.inf, -math.inf]
    assert np.isnan(logits_values(logits_message(np.array([math.nan])))).all()


def test_logits_of_several_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        logits_message(np.zeros((2, 3)))


def test_values_are_read_in_every_encoding() -> None:
    """Packed in two parts around another field, partly unpacked, and with fields of a later version."""
    packed, single = b"\x12\x08" + struct.pack("<2f", 1, 2), b"\x15" + struct.pack("<f", 3)
    unknown = b"\x7a\x03abc" + b"\x80\x01\x05"
    message = pb.Logits.FromString(unknown + packed + b"\x08\x09" + single + b"\x18\x04" + unknown)
    assert (message.sequence, list(message.tokens)) == (9, [4])
    assert logits_values(message).tolist() == [1, 2, 3]
