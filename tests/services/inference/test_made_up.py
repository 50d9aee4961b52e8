"""Requests are made up for whatever a graph declares, and they are the same every time."""

import numpy as np
import pytest

from deepseek.models.manifest import EncoderSpec, TensorSpec
from services.inference.engine import DTYPES, Tensor
from services.inference.made_up import NUM_REQUESTS, make_requests


@pytest.mark.parametrize(
    ("dims", "shape"), [(("n", 3, "height"), (1, 3, 8)), ((2, 5), (2, 5)), ((), ()), (None, (1,)), (("", ""), (1, 8))]
)
@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_and_shape_is_made(
    datatype: str, dims: tuple[int | str, ...] | None, shape: tuple[int, ...]
) -> None:
    requests = next(make_requests([Tensor("x", datatype, dims)], []))
    assert len(requests) == NUM_REQUESTS
    for request in requests:
        assert (request["x"].dtype, request["x"].shape) == (DTYPES[datatype], shape)


def test_requests_are_the_same_every_time() -> None:
    tensors = [Tensor("x", "UINT8", ("n", 16, 16, 3))]
    for one, other in zip(next(make_requests(tensors, [])), next(make_requests(tensors, [])), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_pixels_are_noise_patches_and_one_value() -> None:
    noise, patches, flat, *_ = next(make_requests([Tensor("x", "UINT8", ("n", 64, 64))], []))
    assert len(np.unique(noise["x"][0, 0])) > 40
    assert len(np.unique(patches["x"][0, 0])) <= 8
    assert len(np.unique(flat["x"])) == 1


def test_tokens_stay_within_what_an_encoder_knows() -> None:
    words = TensorSpec("x", "INT64", (-1, 6), EncoderSpec("words", {"length": 6, "vocabulary": 5}))
    kind = TensorSpec("y", "INT64", (-1,), EncoderSpec("label", {}, {"labels": ["no", "yes"]}))
    tensors = [Tensor("x", "INT64", ("n", 6)), Tensor("y", "INT64", ("n",))]
    (requests,) = make_requests(tensors, [words, kind])
    assert {int(value) for request in requests for value in request["x"].flat} == {0, 1, 2, 3, 4}
    assert {int(value) for request in requests for value in request["y"].flat} == {0, 1}


def test_other_sizes_and_bounds_are_tried_next() -> None:
    tries = list(make_requests([Tensor("ids", "INT64", ("n", "length"))], []))
    assert [one[0]["ids"].shape[1] for one in tries] == [8, 8, 64, 64, 224, 224, 1, 1]
    assert [max(int(request["ids"].max()) for request in one) > 1 for one in tries[:2]] == [True, False]


def test_nothing_huge_is_made() -> None:
    assert list(make_requests([Tensor("x", "FP32", (1, 1 << 30))], [])) == []
