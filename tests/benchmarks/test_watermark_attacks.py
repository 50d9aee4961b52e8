"""Counting of marks after attacks in the further cases."""

import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

from benchmarks import watermark_attacks, watermark_cases
from benchmarks.statistics import lower_bound
from benchmarks.watermark_attacks import FIRST, NUM_CASES, SEED, read_cases, summary
from benchmarks.watermark_cases import SIDE, make_cases
from benchmarks.watermark_cases import read_cases as read_first_cases
from benchmarks.watermark_image_measures import NULL_NUMBER, TILES
from common.errors import FailedPrecondition


def record(number: int, **exact: bool) -> dict[str, Any]:
    return {
        "kind": "ours",
        "number": number,
        "source": "moon",
        "psnr_db": 44.0,
        "ssim": 0.99,
        "wrong_ids": 0,
        "exact": exact,
    }


def test_cases_whose_id_was_not_read_are_listed() -> None:
    tiles = {"kind": "tiles", "number": 0, "exact": {str(tile): tile > 64 for tile in TILES}}
    many = {"kind": "many", "number": 0, "exact": [True, False]}
    null = {"kind": "null", "number": 5000, "num_keys": 3, "false_alarms": 0, "p": 0.5, "p_wrong_key": [0.2, 0.8]}
    figures = summary([record(2, none=True, crop=False), tiles, null, record(1, none=True, crop=True), many])
    assert figures["n"] == 2
    assert figures["not_told"] == {"none": [], "crop": [2]}
    assert figures["exact_lower"] == {"none": lower_bound(2, 2), "crop": lower_bound(1, 2)}
    assert figures["exact_lower_least"] == lower_bound(1, 2)
    assert (figures["worst_attack"], figures["worst_attack_exact"]) == ("crop", 0.5)
    assert (figures["tile_averaging_exact"], figures["many_averaging_exact"]) == (0.0, 0.5)
    assert (figures["fpr_images"], figures["fpr_pairs"], figures["false_alarms"]) == (1, 4, 0)


def test_with_this_many_cases_seven_losses_keep_the_target() -> None:
    assert lower_bound(NUM_CASES - 7, NUM_CASES) > 0.993 > lower_bound(NUM_CASES - 8, NUM_CASES)


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the pictures that the cases were drawn for."""
    monkeypatch.setattr(watermark_cases, "photograph", lambda name: Image.new("L", (SIDE, SIDE)))
    monkeypatch.setattr(watermark_attacks, "read_cases", read_cases.__wrapped__)


@pytest.mark.usefixtures("grey")
def test_cases_differ_from_the_first_ones_and_are_reproducible() -> None:
    cases = make_cases(range(FIRST, FIRST + NUM_CASES), SEED)
    assert cases == make_cases(range(FIRST, FIRST + NUM_CASES), SEED)
    first = read_first_cases()
    assert not {case.key for case in cases} & {case.key for case in first}
    assert not {case.angle for case in cases} & {case.angle for case in first}
    assert not {case.source for case in cases if "-" in case.source} & {case.source for case in first}
    assert max(case.key for case in cases) < NULL_NUMBER


@pytest.mark.usefixtures("grey")
def test_cases_that_are_not_the_frozen_ones_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match="install the locked versions of numpy and scikit-image") as error:
        watermark_attacks.read_cases()
    assert error.value.reason == "WRONG_CASES"


def test_without_pictures_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['skimage'] = None; from benchmarks.watermark_attacks import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'deepseek-mesh[peers]'" in done.stderr
