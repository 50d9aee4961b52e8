"""Tokens and logits in every form that tokenizers and models return."""

import array
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from deepseek.watermark.text.tokens import MAX_TOKEN, check_logits, check_token, check_tokens

TOKENS = [3, 4, 5, 6]

FORMS = {
    "list": TOKENS,
    "tuple": tuple(TOKENS),
    "range": range(3, 7),
    "generator": (token for token in TOKENS),
    "array": np.array(TOKENS),
    "array of int32": np.array(TOKENS, np.int32),
    "array of uint16": np.array(TOKENS, np.uint16),
    "big-endian array": np.array(TOKENS, ">i4"),
    "list of numpy.int64": list(np.array(TOKENS)),
    "list of arrays without a dimension": [np.array(token) for token in TOKENS],
    "array.array": array.array("i", TOKENS),
    "tensor": torch.tensor(TOKENS),
    "list of tensors": list(torch.tensor(TOKENS)),
    "batch of one": [TOKENS],
    "array of a batch": np.array([TOKENS]),
    "tensor of a batch": torch.tensor([TOKENS]),
    "list of one array": [np.array(TOKENS)],
    "list of one range": [range(3, 7)],
}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_accepted_in_every_form(form: str) -> None:
    tokens = check_tokens(FORMS[form])
    assert tokens == TOKENS
    assert all(type(token) is int for token in tokens)


@pytest.mark.parametrize("none", [[], (), np.array([], np.int64), torch.tensor([], dtype=torch.int64), [[]]], ids=repr)
def test_a_text_may_be_empty(none: Any) -> None:
    assert check_tokens(none) == []


@pytest.mark.parametrize(
    "given",
    [
        None,
        5,
        np.int64(5),
        "text",
        b"bytes",
        ["a", "b"],
        {"input_ids": TOKENS},
        [1.0, 2.0],
        np.array([1.0, 2.0]),
        torch.tensor([1.0]),
        [True, False],
        np.array([True, False]),
        [None],
        [TOKENS, TOKENS],
        np.array([TOKENS, TOKENS]),
        [1, TOKENS],
        [-1],
        [MAX_TOKEN + 1],
        np.array([1 << 63], np.uint64),
    ],
    ids=repr,
)
def test_anything_but_the_tokens_of_a_text_is_refused_with_its_field(given: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_tokens(given, field="text.tokens")
    assert (caught.value.reason, caught.value.field) == ("BAD_TOKEN", "text.tokens")


def test_a_single_token_may_be_an_integer_of_any_library() -> None:
    for token in (7, np.uint16(7), torch.tensor(7)):
        assert (type(check_token(token)), check_token(token)) == (int, 7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_keep_their_precision(dtype: type[np.floating]) -> None:
    assert check_logits(np.array([0.5, 1.0], dtype)).dtype == dtype


@pytest.mark.parametrize(
    "given",
    [
        [0.0, 1.0, 2.0],
        [0, 1, 2],
        np.arange(3),
        np.arange(3)[None],
        [[0.0, 1.0, 2.0]],
        torch.arange(3.0),
        torch.arange(3.0)[None],
        torch.arange(3.0, requires_grad=True),
        torch.arange(3.0, dtype=torch.bfloat16),
        list(torch.arange(3.0)),
    ],
    ids=repr,
)
def test_logits_are_accepted_in_every_form(given: Any) -> None:
    assert check_logits(given).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "given",
    [None, 1.0, "text", ["a"], [[0.0], [1.0]], [[0.0], [1.0, 2.0]], np.zeros((2, 3)), np.array([True]), [1j]],
    ids=repr,
)
def test_anything_but_the_logits_of_a_token_is_refused_with_its_field(given: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_logits(given, field="logits")
    assert (caught.value.reason, caught.value.field) == ("BAD_LOGITS", "logits")
