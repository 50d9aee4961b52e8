"""Conversions between protobuf and domain values."""

import pytest

from common.proto import enum_name, enum_word, repeatable, timestamp
from protos.registry.v1 import registry_pb2
from protos.watermark.v1.watermark_pb2 import Modality


def test_a_repeated_request_is_the_same_call_and_another_is_not() -> None:
    first = registry_pb2.CreateModelRequest(model_id="m", request_id="r")
    call = repeatable("CreateModel", first, first.request_id)
    again = registry_pb2.CreateModelRequest.FromString(first.SerializeToString())
    assert repeatable("CreateModel", again, "r") == call
    other = registry_pb2.CreateModelRequest(model_id="n", request_id="r")
    assert repeatable("CreateModel", other, "r") != call


def test_times_keep_their_microseconds() -> None:
    assert timestamp(1_700_000_000_123_456).ToMicroseconds() == 1_700_000_000_123_456


@pytest.mark.parametrize(("number", "word"), [(Modality.MODALITY_TEXT, "text"), (Modality.MODALITY_IMAGE, "image")])
def test_the_word_of_an_enum_name_stands_for_it(number: Modality, word: str) -> None:
    assert enum_word(Modality, number) == word
    assert enum_name(Modality, word) == Modality.Name(number)


def test_unset_and_unknown_enum_names_have_no_word() -> None:
    assert enum_word(Modality, Modality.MODALITY_UNSPECIFIED) == ""
    assert enum_word(Modality, 99) == ""
