"""The payload of an image: only ids that were sealed with the key are opened."""

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.payload import Payload
from tests.deepseek.watermark.image.keys import a_key


@pytest.mark.parametrize("message", [0, 1, 0xDEADBEEF, (1 << ID_BITS) - 1])
def test_a_sealed_id_is_opened(message: int) -> None:
    payload = Payload(a_key())
    assert payload.open(payload.seal(message)) == message


def test_unsealed_data_is_not_an_id() -> None:
    payload = Payload(a_key())
    random = np.random.default_rng(0)
    taken = sum(payload.open(int(data)) is not None for data in random.integers(0, 1 << 63, 20_000))
    assert taken <= 5  # one in 65,536 is expected
    assert payload.open(Payload(a_key(1)).seal(7)) is None


@pytest.mark.parametrize("message", [-1, 1 << ID_BITS])
def test_an_id_out_of_range_is_refused(message: int) -> None:
    with pytest.raises(InvalidArgument, match="integers from 0") as caught:
        Payload(a_key()).seal(message)
    assert (caught.value.reason, caught.value.field) == ("BAD_ID", "id")


def test_a_seal_never_changes() -> None:
    assert Payload(a_key()).seal(0x123456789ABC) == 0x123456789ABC514F
