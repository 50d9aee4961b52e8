"""Synthetic requests fit whatever a graph declares, and are deterministic."""

import numpy as np
import pytest

from deepseek.models.datatypes import DTYPES
from deepseek.models.manifest import EncoderSpec, TensorSpec
from services.inference.engine import Tensor
from services.inference.synthetic_requests import NUM_KINDS, NUM_REQUESTS, make_requests


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
    requests = next(make_requests([Tensor("x", "UINT8", ("n", 64, 64))], []))
    num_values = [len(np.unique(request["x"][0, 0])) for request in requests]
    assert {number == 1 for number in num_values[:4]} == {True}
    assert {1 < number <= 8 for number in num_values[4:8]} == {True}
    assert {number > 40 for number in num_values[8:12]} == {True}


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "INT16", "INT32"])
def test_numbers_are_small_and_large(datatype: str) -> None:
    requests = next(make_requests([Tensor("x", datatype, (64,))], []))
    greatest = [float(np.abs(request["x"].astype(np.float64)).max()) for request in requests]
    assert np.isfinite(greatest).all()
    assert min(greatest) <= 1
    assert sum(100 < one <= 255 for one in greatest) >= 3
    assert max(greatest) >= {"FP16": 4000, "FP32": 1e8}.get(datatype, 30_000)


def test_a_kind_of_request_comes_again() -> None:
    requests = next(make_requests([Tensor("x", "FP32", (64, 64))], []))
    for one, other in zip(requests[:NUM_KINDS], requests[NUM_KINDS:], strict=True):
        assert len(np.unique(one["x"])) == pytest.approx(len(np.unique(other["x"])), rel=0.01)


def test_tokens_stay_within_what_an_encoder_knows() -> None:
    words = TensorSpec("x", "INT64", (-1, 6), EncoderSpec("words", {"length": 6, "vocabulary": 5}))
    kind = TensorSpec("y", "INT64", (-1,), EncoderSpec("label", {}, {"labels": ["no", "yes"]}))
    tensors = [Tensor("x", "INT64", ("n", 6)), Tensor("y", "INT64", ("n",))]
    (requests,) = make_requests(tensors, [words, kind])
    assert {int(value) for request in requests for value in request["x"].flat} == {0, 1, 2, 3, 4}
    assert {int(value) for request in requests for value in request["y"].flat} == {0, 1}


def test_other_sizes_and_bounds_are_tried_next() -> None:
    tries = list(make_requests([Tensor("ids", "INT64", ("n", "length"))], []))
    assert [one[0]["ids"].shape[1] for one in tries] == [8] * 3 + [64] * 3 + [224] * 3 + [1] * 3
    greatest = [max(int(request["ids"].max()) for request in one) for one in tries[:3]]
    assert 30_000 < greatest[0] < 32_768
    assert 90 < greatest[1] < 100
    assert greatest[2] == 1


def test_nothing_huge_is_made() -> None:
    assert list(make_requests([Tensor("x", "FP32", (1, 1 << 30))], [])) == []
