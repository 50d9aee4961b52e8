"""Numbers of other libraries become Python's."""

from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from common.scalars import python_value, real_number, whole_number


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)], ids=repr)
def test_a_whole_number_of_any_library_is_an_int(given: Any) -> None:
    assert type(whole_number(given, "epochs")) is int
    assert whole_number(given, "epochs") == 3
    assert (type(real_number(given, "lr")), real_number(given, "lr")) == (float, 3.0)


@pytest.mark.parametrize("given", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr)
def test_a_number_of_any_library_is_a_float(given: Any) -> None:
    assert (type(real_number(given, "lr")), real_number(given, "lr")) == (float, 0.5)
    with pytest.raises(InvalidArgument) as caught:
        whole_number(given, "epochs")
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "epochs")


@pytest.mark.parametrize("given", [True, np.bool_(True), "3", None, [3], np.array([3])], ids=repr)
def test_what_is_no_number_is_refused_with_its_field(given: Any) -> None:
    for number in (whole_number, real_number):
        with pytest.raises(InvalidArgument) as caught:
            number(given, "seed")
        assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "seed")


def test_values_without_numbers_stay_as_they_are() -> None:
    for value in ("text", b"data", None, [np.int64(1)], {"a": 1}):
        assert python_value(value) is value
    assert python_value(np.str_("text")) == "text"
    assert python_value(np.array([[1, 2]])) == [[1, 2]]
