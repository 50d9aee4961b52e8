"""The parts of the benchmark of image marks that could cause a wrong figure."""

import dataclasses
import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.watermark_cases import (
    ASPECTS,
    CASES,
    CROPPED_AREA,
    FACTORS,
    LEAST_SIDE,
    MOST_ANGLE,
    MOST_SIDE,
    NUM_CASES,
    PROCEDURAL,
    SCALES,
    SIDE,
    SOURCES,
    attacks,
    photograph,
    picture,
    procedural,
    read_cases,
    write_cases,
)
from benchmarks.watermark_image import KINDS, summary, tasks, write_figure
from benchmarks.watermark_image_measures import QUICK, TILES, fine, measure, without_tile
from benchmarks.watermark_peers import Bits, Peer, Real, embed_like, scaled
from common.errors import FailedPrecondition
from deepseek.watermark.image.detector import SCALES as SEARCHED
from deepseek.watermark.image.pattern import NUM_ANGLES, RADIUS_STEP
from deepseek.watermark.image.pixels import Pixels
from deepseek.watermark.image.quality import squared_error

FROZEN = "b871029e3357d2b85fae58789790ce9d27a4b953d1626cb01aa1e1db7e70174b"


def test_cases_are_frozen() -> None:
    assert hashlib.sha256(CASES.read_bytes()).hexdigest() == FROZEN


def test_frozen_cases_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.watermark_cases.photograph", lambda name: Image.new("L", (SIDE, SIDE)))
    with pytest.raises(FileExistsError):
        write_cases()


def test_cases_are_as_described() -> None:
    cases = read_cases()
    assert [case.number for case in cases] == list(range(NUM_CASES))
    for case in cases:
        assert case.source.startswith(PROCEDURAL) if case.number % 8 == 7 else case.source in SOURCES
        left, top, right, bottom = case.box
        is_part = case.source in ("hubble_deep_field", "retina", "cell")
        assert (right - left, bottom - top) == case.size or is_part
        assert not is_part or (SIDE <= right - left == bottom - top <= MOST_SIDE and case.size == (SIDE, SIDE))
        assert min(case.size) >= LEAST_SIDE
        assert all(SCALES[0] <= scale <= SCALES[1] for scale in (case.resize, case.resize_jpeg))
        assert all(FACTORS[0] <= factor <= FACTORS[1] for factor in (case.brightness, case.contrast))
        assert abs(case.angle) <= MOST_ANGLE
        x, y, width, height = case.crop
        assert width * height == pytest.approx(CROPPED_AREA)
        assert ASPECTS[0] <= width / height <= ASPECTS[1]
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 1
    assert {case.source for case in cases} >= set(SOURCES)
    assert len({case.key for case in cases}) == len({case.id for case in cases}) == NUM_CASES
    assert 0.4 < np.mean([case.expand for case in cases]) < 0.6


def test_cases_do_not_lie_on_the_grids_of_the_detector() -> None:
    cases = read_cases()
    turns = np.array([math.radians(case.angle) for case in cases]) * NUM_ANGLES / math.pi
    scales = np.array([scale for case in cases for scale in (case.resize, case.resize_jpeg)])
    for steps in (turns, np.log(SEARCHED[1] / scales) / RADIUS_STEP):
        distances = np.abs(steps - np.rint(steps))
        assert distances.min() > 1e-6
        assert distances.mean() == pytest.approx(0.25, abs=0.03)  # the mean of uniform distances


def test_procedural_pictures_differ_and_are_reproducible() -> None:
    for number in range(3):
        pixels = procedural(number)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 10
        assert np.array_equal(procedural(number), pixels)
        assert not np.array_equal(procedural(number + 3), pixels)


@pytest.mark.parametrize(("flip", "rows", "columns"), [(0, 1, 1), (1, 1, -1), (2, -1, 1), (3, -1, -1)])
def test_pictures_are_flipped(flip: int, rows: int, columns: int) -> None:
    case = dataclasses.replace(read_cases()[7], flip=flip)
    assert np.array_equal(picture(case), procedural(7)[::rows, ::columns])


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    photograph.cache_clear()
    with pytest.raises(FailedPrecondition, match=r"pip install 'deepseek-mesh\[peers\]'") as error:
        photograph("astronaut")
    assert error.value.reason == "PACKAGE_MISSING"


def test_peers_that_are_not_installed_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "version", None)
    assert {kind for kind, _ in tasks(QUICK)} == {"ours", "null", "tiles", "many"}


def test_a_case_is_measured_after_every_attack() -> None:
    case = read_cases()[7]
    assert case.source == "procedural-7"
    record = measure("ours", 7, QUICK)
    assert list(record["exact"]) == list(attacks(case))
    assert record["exact"]["none"]
    assert record["wrong_ids"] == 0
    assert record["psnr_db"] > 41
    assert record["source"] == case.source


def test_false_alarms_are_counted_in_every_pair() -> None:
    record = measure("null", 0, QUICK)
    assert record["num_keys"] == QUICK.wrong_keys
    assert record["false_alarms"] == 0
    assert all(0 < p <= 1 for p in (record["p"], *record["p_wrong_key"]))


def test_a_mean_tile_removes_what_all_tiles_share() -> None:
    random = np.random.default_rng(0)
    tile = random.normal(0, 10, (64, 64, 1))
    pixels = np.clip(np.tile(tile, (5, 6, 3)) + random.normal(128, 2, (320, 384, 3)), 0, 255).astype(np.uint8)
    pixels = pixels[:300]
    attacked = without_tile(pixels, 64)
    assert attacked.shape == pixels.shape
    assert fine(attacked)[32:-32, 32:-32].std() < 0.3 * fine(pixels)[32:-32, 32:-32].std()
    assert without_tile(pixels[..., 0], 64).shape == (300, 384)


@pytest.mark.parametrize("error", [1.0, 4.0, 20.0])
def test_a_difference_is_scaled_to_an_error(error: float) -> None:
    pixels = procedural(1)
    difference = np.random.default_rng(0).normal(0, 3, pixels.shape)
    assert squared_error(pixels, scaled(pixels, difference, error)) == pytest.approx(error, rel=0.02)


def test_the_strength_of_a_peer_is_set_by_the_error() -> None:
    strengths = []

    def embed(pixels: Pixels, bits: Bits, strength: float) -> Real:
        strengths.append(strength)
        return pixels + 8 * strength * (2.0 * bits.reshape(SIDE, SIDE, 1) - 1)

    peer = Peer("package", "module", SIDE * SIDE, True, embed, lambda pixels, strength: None)
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    bits = np.random.default_rng(0).integers(0, 2, peer.num_bits).astype(np.uint8)
    embedded = embed_like(peer, pixels, bits, 4.0)
    assert strengths == [1.0, pytest.approx(0.25)]
    assert embedded.strength == strengths[1]
    assert squared_error(pixels, embedded.pixels) == pytest.approx(4.0)
    assert squared_error(pixels, embedded.native) == pytest.approx(64.0)


def records() -> list[dict[str, Any]]:
    """Records in which ours loses to dwtDctSvd after one attack in five of six cases, with one false alarm in eight."""
    some: list[dict[str, Any]] = []
    for number in reversed(range(6)):
        common = {"number": number, "psnr_db": 42.0 + number}
        exact = {"none": True, "crop": number == 0}
        some.append({"kind": "ours", "source": "moon", "ssim": 0.99, "exact": exact, "wrong_ids": 0} | common)
        theirs = {"none": False, "crop": True}
        native = {"native_psnr_db": 40.0, "native_exact": True}
        some.append({"kind": "dwtDctSvd", "exact": theirs} | common | native)
    for number in range(2):
        p = {"p": 0.5, "p_wrong_key": [0.2, 0.8]}
        some.append({"kind": "null", "number": number, "num_keys": 3, "false_alarms": number} | p)
    some.append({"kind": "tiles", "number": 0, "exact": {str(tile): tile > 64 for tile in TILES}})
    some.append({"kind": "many", "number": 0, "exact": [True, False]})
    return some


def test_figures_are_computed_from_records() -> None:
    figures = summary(records())
    assert figures["n"] == 6
    assert (figures["psnr_db"], figures["psnr_db_min"]) == (44.5, 42.0)
    assert figures["exact"] == {"none": 1.0, "crop": pytest.approx(1 / 6)}
    assert figures["worst_attack"] == "crop"
    assert figures["worst_attack_exact"] == pytest.approx(1 / 6)
    assert figures["worst_attack_interval"] == [pytest.approx(1 - 0.95 ** (1 / 6)), 1.0]
    assert (figures["fpr_images"], figures["fpr_pairs"], figures["false_alarms"]) == (2, 8, 1)
    assert figures["fpr_upper"] == pytest.approx(0.4707, abs=1e-4)
    assert (figures["tile_averaging_exact"], figures["many_averaging_exact"]) == (0.0, 0.5)
    assert figures["attacks_behind_peers"] == 1
    assert list(figures["peers"]) == ["dwtDctSvd"]
    assert figures["peers"]["dwtDctSvd"]["behind"] == ["crop"]
    assert {one["kind"] for one in records()} < set(KINDS)


def test_a_worse_rate_by_chance_is_not_behind() -> None:
    some = [one for one in records() if one["number"] < 4]  # three of four cases
    assert summary(some)["attacks_behind_peers"] == 0


def test_without_peers_there_is_no_comparison() -> None:
    figures = summary([one for one in records() if one["kind"] != "dwtDctSvd"])
    assert figures["peers"] is None
    assert figures["attacks_behind_peers"] is None


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    write_figure(tmp_path / "figures" / "image.png", summary(records()), read_cases()[7])
    assert (tmp_path / "figures" / "image.png").stat().st_size > 10_000
