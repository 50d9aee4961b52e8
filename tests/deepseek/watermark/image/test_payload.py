"""What an image carries: only what was sealed with the key comes out again."""

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.payload import Payload
from tests.deepseek.watermark.image.pictures import a_key


@pytest.mark.parametrize("message", [0, 1, 0xDEADBEEF, (1 << ID_BITS) - 1])
def test_an_id_comes_out_as_it_went_in(message: int) -> None:
    payload = Payload(a_key())
    assert payload.open(payload.seal(message)) == message


def test_what_was_not_sealed_is_no_id() -> None:
    payload = Payload(a_key())
    random = np.random.default_rng(0)
    taken = sum(payload.open(int(data)) is not None for data in random.integers(0, 1 << 63, 20_000))
    assert taken <= 5  # one of 65,536
    assert payload.open(Payload(a_key(1)).seal(7)) is None


@pytest.mark.parametrize("message", [-1, 1 << ID_BITS])
def test_an_id_that_does_not_fit_is_refused(message: int) -> None:
    with pytest.raises(InvalidArgument, match="whole numbers from 0") as caught:
        Payload(a_key()).seal(message)
    assert (caught.value.reason, caught.value.field) == ("BAD_ID", "id")


def test_a_seal_stays_what_it_was() -> None:
    assert Payload(a_key()).seal(0x123456789ABC) == 0x123456789ABC514F
