"""Tensors between protobuf and numpy."""

import struct

import numpy as np
import pytest

from common.errors import InvalidArgument
from protos.inference.v2 import inference_pb2 as pb
from services.inference.codec import decode_inputs, encode_outputs
from services.inference.engine import DTYPES

Tensor = pb.ModelInferRequest.InferInputTensor
Contents = pb.InferTensorContents


def request(*inputs: Tensor, raw: list[bytes] | None = None) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw or [])


def raw_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BYTES"}))
def test_raw_contents_are_read_where_they_lie(datatype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], DTYPES[datatype])
    arrays = decode_inputs(request(Tensor(name="x", datatype=datatype, shape=[2, 3]), raw=[values.tobytes()]))
    assert arrays["x"].dtype == values.dtype
    assert np.array_equal(arrays["x"], values)
    assert not arrays["x"].flags.owndata
    assert not arrays["x"].flags.writeable


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("BOOL", Contents(bool_contents=[True, False]), [True, False]),
        ("INT8", Contents(int_contents=[-128, 127]), [-128, 127]),
        ("INT16", Contents(int_contents=[-1, 1]), [-1, 1]),
        ("INT32", Contents(int_contents=[-(2**31), 1]), [-(2**31), 1]),
        ("INT64", Contents(int64_contents=[-(2**63), 1]), [-(2**63), 1]),
        ("UINT8", Contents(uint_contents=[0, 255]), [0, 255]),
        ("UINT16", Contents(uint_contents=[0, 65535]), [0, 65535]),
        ("UINT32", Contents(uint_contents=[0, 2**32 - 1]), [0, 2**32 - 1]),
        ("UINT64", Contents(uint64_contents=[0, 2**64 - 1]), [0, 2**64 - 1]),
        ("FP32", Contents(fp32_contents=[0.1, float("inf")]), [np.float32(0.1), np.inf]),
        ("FP64", Contents(fp64_contents=[0.1, -0.0]), [0.1, -0.0]),
        ("BYTES", Contents(bytes_contents=[b"", b"\xff\0"]), [b"", b"\xff\0"]),
    ],
)
def test_typed_contents_are_accepted(datatype: str, contents: Contents, expected: list[object]) -> None:
    arrays = decode_inputs(request(Tensor(name="x", datatype=datatype, shape=[1, 2], contents=contents)))
    assert arrays["x"].dtype == DTYPES[datatype]
    assert arrays["x"].tolist() == [[item.item() if isinstance(item, np.generic) else item for item in expected]]


def test_bytes_elements_come_with_their_lengths() -> None:
    elements = [b"", b"a", "größe".encode(), b"\xff\0"]
    arrays = decode_inputs(request(Tensor(name="x", datatype="BYTES", shape=[2, 2]), raw=[raw_bytes(*elements)]))
    assert arrays["x"].shape == (2, 2)
    assert arrays["x"].ravel().tolist() == elements


def test_not_a_number_arrives_to_the_bit() -> None:
    raw = struct.pack("<I", 0x7FC12345)
    arrays = decode_inputs(request(Tensor(name="x", datatype="FP32", shape=[1]), raw=[raw]))
    assert arrays["x"].tobytes() == raw


def test_empty_tensors_and_scalars_are_fine() -> None:
    arrays = decode_inputs(
        request(
            Tensor(name="empty", datatype="FP32", shape=[0, 3]),
            Tensor(name="scalar", datatype="INT64"),
            Tensor(name="text", datatype="BYTES", shape=[0]),
            raw=[b"", b"\x07" + b"\0" * 7, b""],
        )
    )
    assert arrays["empty"].shape == (0, 3)
    assert arrays["scalar"].item() == 7
    assert arrays["text"].shape == (0,)


FOUR = b"\0" * 4


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (request(Tensor(name="x", datatype="FP32", shape=[2]), raw=[FOUR]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="FP32", shape=[2]), raw=[FOUR * 3]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="FP32", shape=[1]), raw=[FOUR, FOUR]), "raw_input_contents"),
        (request(Tensor(name="x", datatype="FLOAT", shape=[1]), raw=[FOUR]), "inputs[0].datatype"),
        (request(Tensor(name="x", datatype="BF16", shape=[2]), raw=[FOUR]), "inputs[0].datatype"),
        (request(Tensor(name="x", datatype="", shape=[1]), raw=[FOUR]), "inputs[0].datatype"),
        (request(Tensor(name="x", datatype="FP32", shape=[-1]), raw=[FOUR]), "inputs[0].shape"),
        (request(Tensor(name="x", datatype="FP32", shape=[0, 2**62, 2**62]), raw=[b""]), "inputs[0].shape"),
        (request(Tensor(name="x", datatype="FP32", shape=[1] * 100), raw=[FOUR]), "inputs[0].shape"),
        (request(Tensor(name="x", datatype="BOOL", shape=[2]), raw=[b"\0\2"]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="BYTES", shape=[1]), raw=[b"\1\0\0"]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="BYTES", shape=[1]), raw=[b"\2\0\0\0a"]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="BYTES", shape=[1]), raw=[b"\xff\xff\xff\xff"]), "raw_input_contents[0]"),
        (request(Tensor(name="x", datatype="BYTES", shape=[2]), raw=[raw_bytes(b"a")]), "raw_input_contents[0]"),
        (
            request(
                Tensor(name="a", datatype="FP32", shape=[1]),
                Tensor(name="x", datatype="FP32", shape=[1], contents=Contents(fp32_contents=[1])),
                raw=[FOUR, FOUR],
            ),
            "inputs[1].contents",
        ),
        (
            request(Tensor(name="x", datatype="FP32", shape=[2], contents=Contents(fp32_contents=[1]))),
            "inputs[0].contents.fp32_contents",
        ),
        (
            request(Tensor(name="x", datatype="FP32", shape=[1], contents=Contents(fp64_contents=[1]))),
            "inputs[0].contents.fp64_contents",
        ),
        (
            request(Tensor(name="x", datatype="UINT8", shape=[1], contents=Contents(uint_contents=[256]))),
            "inputs[0].contents.uint_contents",
        ),
        (
            request(Tensor(name="x", datatype="INT8", shape=[1], contents=Contents(int_contents=[-129]))),
            "inputs[0].contents.int_contents",
        ),
        (request(Tensor(name="x", datatype="FP16", shape=[1])), "inputs[0].contents"),
        (request(Tensor(name="x", datatype="FP32", shape=[1])), "inputs[0].contents.fp32_contents"),
        (
            request(*[Tensor(name="x", datatype="FP32", shape=[1])] * 2, raw=[FOUR, FOUR]),
            "inputs[1].name",
        ),
    ],
)
def test_contents_and_claims_that_disagree_are_refused_naming_the_field(
    wrong: pb.ModelInferRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_inputs(wrong)
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", field)


def test_an_input_parameter_is_not_ignored() -> None:
    tensor = Tensor(name="x", datatype="FP32", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InvalidArgument) as caught:
        decode_inputs(request(tensor, raw=[FOUR]))
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_FIELD", "inputs[0].parameters[shared_memory_region]")


def test_answers_are_raw_and_in_order() -> None:
    response = pb.ModelInferResponse()
    numbers = np.arange(6, dtype=np.float16).reshape(2, 3)
    text = np.array([[b"a", b""]], np.object_)
    encode_outputs(response, [("numbers", numbers), ("transposed", numbers.T), ("text", text)])
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
        ("numbers", "FP16", [2, 3]),
        ("transposed", "FP16", [3, 2]),
        ("text", "BYTES", [1, 2]),
    ]
    assert list(response.raw_output_contents) == [
        numbers.tobytes(),
        np.ascontiguousarray(numbers.T).tobytes(),
        raw_bytes(b"a", b""),
    ]
    assert not any(one.HasField("contents") for one in response.outputs)
