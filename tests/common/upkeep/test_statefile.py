"""State files that somebody has written who means no good; `tests/contracts/test_state.py` has all others."""

from pathlib import Path

import pytest

from common.errors import DataLoss
from common.upkeep import statefile


@pytest.mark.parametrize("num_bytes", [1 << 40, 1 << 62])
def test_a_part_that_says_it_is_huge_takes_no_memory(tmp_path: Path, num_bytes: int) -> None:
    prefix = bytearray()
    while num_bytes > 127:
        prefix.append(num_bytes & 127 | 128)
        num_bytes >>= 7
    prefix.append(num_bytes)
    path = tmp_path / "state"
    path.write_bytes(bytes(prefix) + b"little")
    with path.open("rb") as file, pytest.raises(DataLoss) as caught:
        list(statefile.read(file))
    assert caught.value.reason == "STATE_DAMAGED"
