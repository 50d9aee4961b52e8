"""The quality of marked images, and where they are marked."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InvalidArgument
from deepseek.watermark.image.detector import ImageDetector
from deepseek.watermark.image.files import ImageFile
from deepseek.watermark.image.marker import PSNR_DB, ImageMarker
from deepseek.watermark.image.pixels import Pixels
from deepseek.watermark.image.quality import quality
from tests.deepseek.watermark.image.keys import a_key
from tests.harness.images import drawing, photograph, texture


def marked(pixels: np.ndarray, number: int = 0, bounds: Mapping[str, float] | None = None) -> np.ndarray:
    return ImageMarker(a_key(), **(bounds or {})).mark(pixels, 0xABCDEF, random=np.random.default_rng(number))


BOUNDS: list[dict[str, float]] = [{}, {"psnr_db": 45.0}, {"ssim": 0.995}]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(
    "picture", [photograph, partial(photograph, 1200, 900), drawing], ids=["photo", "large", "flat"]
)
def test_both_bounds_hold(picture: Callable[[], Pixels], bounds: dict[str, float]) -> None:
    found = quality(picture(), marked(picture(), bounds=bounds))
    assert found.psnr_db >= bounds.get("psnr_db", 42.0)
    assert found.ssim >= bounds.get("ssim", 0.9855) - 0.0005


@pytest.mark.parametrize("bounds", BOUNDS)
def test_one_of_the_bounds_is_reached(bounds: dict[str, float]) -> None:
    found = quality(photograph(), marked(photograph(), bounds=bounds))
    assert found.psnr_db < bounds.get("psnr_db", 42.0) + 0.3 or found.ssim < bounds.get("ssim", 0.986) + 0.001


def test_grey_and_colour_of_any_size_keep_their_shape() -> None:
    for pixels in (
        photograph(),
        photograph()[..., 0],
        photograph(1301, 907),
        photograph(128, 131),
        photograph(900, 130),
    ):
        result = marked(pixels)
        assert result.shape == pixels.shape
        assert result.dtype == np.uint8
        assert quality(pixels, result).psnr_db > PSNR_DB - (0.3 if pixels.size > 200_000 else 7)


def test_quality_equals_its_definition() -> None:
    original = photograph()[..., 0]
    noisy = np.clip(original + np.random.default_rng(0).normal(0, 8, original.shape), 0, 255).astype(np.uint8)
    error = np.mean((original.astype(float) - noisy) ** 2)
    found = quality(original, noisy)
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    windows = [
        np.lib.stride_tricks.sliding_window_view(plane.astype(float), (7, 7)).reshape(-1, 49)
        for plane in (original, noisy)
    ]
    means, variances = [w.mean(1) for w in windows], [w.var(1, ddof=1) for w in windows]
    covariance = ((windows[0] - means[0][:, None]) * (windows[1] - means[1][:, None])).sum(1) / 48
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    ssim /= (means[0] ** 2 + means[1] ** 2 + c1) * (variances[0] + variances[1] + c2)
    assert found.ssim == pytest.approx(ssim.mean(), abs=1e-4)


def test_flat_images_get_a_new_origin_each_time() -> None:
    """A flat image agrees equally with every origin."""
    flat = np.full((512, 512), 120, np.uint8)
    differences = [marked(flat, number).astype(float) - flat for number in range(6)]
    alike = np.corrcoef([difference.ravel() for difference in differences])
    assert np.abs(alike - np.eye(6)).max() < 0.2


def test_the_image_agrees_with_the_mark_at_the_chosen_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = ImageDetector(a_key())

    def log_p() -> float:
        return float(np.mean([detector.detect(marked(texture(), seed), search=False).log_p for seed in range(4)]))

    best_of_many = log_p()
    monkeypatch.setattr("deepseek.watermark.image.marker._NUM_ORIGINS", 1)
    assert best_of_many < 1.1 * log_p()


def test_the_same_image_gets_a_new_origin_each_time() -> None:
    """Otherwise, averages of many marked images, or of parts of one, would show the pattern."""
    differences = [marked(photograph(), number).astype(float) - photograph() for number in range(6)]
    alike = np.corrcoef([difference.ravel() for difference in differences])
    assert np.abs(alike - np.eye(6)).max() < 0.1
    mean = np.mean(differences, axis=0)
    assert mean.std() < 0.6 * differences[0].std()


@pytest.mark.parametrize("shape", [(1, 1), (127, 400), (400, 127, 3)])
def test_an_image_that_is_too_small_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="at least 128 x 128") as caught:
        marked(np.zeros(shape, np.uint8))
    assert (caught.value.reason, caught.value.field) == ("IMAGE_TOO_SMALL", "image")


@pytest.mark.parametrize("bounds", [{"psnr_db": 20.0}, {"psnr_db": 70.0}, {"ssim": 0.5}, {"ssim": 1.0}])
def test_invalid_bounds_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="30 to 60 dB"):
        ImageMarker(a_key(), **bounds)
    with pytest.raises(InvalidArgument, match="must be a number"):
        ImageMarker(a_key(), **{name: str(value) for name, value in bounds.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [np.ndarray.tolist, torch.tensor, Image.fromarray, lambda pixels: pixels.astype(int)])
def test_pixels_are_accepted_in_any_form(form: Callable[[Pixels], Any]) -> None:
    pixels = photograph()
    expected = marked(pixels)
    assert np.array_equal(marked(form(pixels)), expected)
    assert ImageDetector(a_key()).detect(form(expected)).id == 0xABCDEF


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((200, 200), np.float32),
        np.full((200, 200), 256),
        np.full((200, 200), -1),
        np.zeros((200, 200, 4), np.uint8),
        np.zeros((1, 200, 200, 3), np.uint8),
        np.zeros((200, 200), np.bool_),
        [[1], [1, 2]],
        "image.png",
        None,
    ],
    ids=lambda pixels: str(getattr(pixels, "dtype", pixels)),
)
def test_anything_but_pixels_is_refused(pixels: Any) -> None:
    for call in (marked, ImageDetector(a_key()).detect):
        with pytest.raises(InvalidArgument) as caught:
            call(pixels)
        assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "image")


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images_stay_in_range(level: int) -> None:
    flat = np.full((300, 300), level, np.uint8)
    assert quality(flat, marked(flat)).psnr_db > PSNR_DB - 0.1


@pytest.mark.parametrize("psnr_db", [45.0, 50.0, 55.0, 60.0])
def test_the_bound_of_the_error_holds_for_flat_images_too(psnr_db: float) -> None:
    """In a flat image, rounding to whole levels is as large as the mark."""
    flat = np.full((300, 300), 100, np.uint8)
    assert quality(flat, marked(flat, bounds={"psnr_db": psnr_db})).psnr_db >= psnr_db


def test_invisible_pixels_get_no_mark() -> None:
    alpha = np.zeros((554, 472), np.uint8)
    alpha[:, 236:] = 255
    pixels = photograph()
    difference = ImageMarker(a_key()).mark(pixels, 1, alpha=alpha).astype(int) - pixels
    assert not difference[:, :230].any()
    assert difference[:, 242:].std() > 1


@pytest.mark.parametrize("shape", [(554, 472), (1108, 944)])
def test_the_bound_holds_for_the_visible_pixels(shape: tuple[int, int]) -> None:
    height, width = shape
    alpha = np.zeros(shape, np.uint8)
    alpha[height // 4 : height // 4 * 3, width // 4 : width // 4 * 3] = 255
    pixels = photograph(width, height)
    marked = ImageMarker(a_key()).mark(pixels, 1, alpha=alpha)
    seen = (slice(height // 4, height // 4 * 3), slice(width // 4, width // 4 * 3))
    found = quality(pixels, marked, alpha)
    assert found.psnr_db == pytest.approx(quality(pixels[seen], marked[seen]).psnr_db, abs=0.2)
    assert found.psnr_db > PSNR_DB - 0.1
    assert found.ssim > 0.98


def cut_out(number: int) -> tuple[Pixels, Pixels]:
    """A textured disc on a transparent background, and its opacity."""
    y, x = np.mgrid[-256:256, -256:256]
    alpha = np.where(np.hypot(y, x) < 150, 255, 0).astype(np.uint8)
    return np.where(alpha > 0, np.roll(texture(), 97 * number, 1), 0).astype(np.uint8), alpha


@pytest.mark.parametrize("number", range(4))
def test_a_cut_out_is_marked_by_its_visible_pixels(number: int) -> None:
    pixels, alpha = cut_out(number)
    marked = ImageMarker(a_key()).mark(pixels, 0xABCDEF, random=np.random.default_rng(number), alpha=alpha)
    assert quality(pixels, marked, alpha).psnr_db > PSNR_DB - 0.1
    seen = ImageFile(marked, alpha, "PNG", {}).flattened()
    assert ImageDetector(a_key()).detect(seen, search=False).id == 0xABCDEF


def test_hidden_pixels_make_no_difference() -> None:
    pixels, alpha = cut_out(0)
    hidden = np.where(alpha > 0, pixels, np.random.default_rng(0).integers(0, 256, pixels.shape)).astype(np.uint8)
    both = [
        ImageMarker(a_key()).mark(one, 1, random=np.random.default_rng(0), alpha=alpha)[alpha > 0]
        for one in (pixels, hidden)
    ]
    assert (both[0] == both[1]).all()


def test_a_large_image_with_few_visible_pixels_keeps_its_bound() -> None:
    alpha = np.zeros((1024, 1024), np.uint8)
    alpha[300:650, 300:650] = 255
    pixels = photograph(1024, 1024)
    assert quality(pixels, ImageMarker(a_key()).mark(pixels, 1, alpha=alpha), alpha).psnr_db > PSNR_DB - 0.1


def test_nearly_transparent_pixels_are_hardly_marked() -> None:
    pixels = photograph()
    alpha = np.full(pixels.shape[:2], 64, np.uint8)
    found = quality(pixels, ImageMarker(a_key()).mark(pixels, 1, alpha=alpha), alpha)
    assert found.psnr_db > PSNR_DB - 0.1


def test_a_requested_bound_holds_in_small_images() -> None:
    pixels = photograph(128, 128)
    assert quality(pixels, marked(pixels)).psnr_db < 41
    assert quality(pixels, marked(pixels, bounds={"psnr_db": 42.1})).psnr_db > 42.0


def test_an_invisible_image_is_unchanged() -> None:
    pixels = photograph()
    assert (ImageMarker(a_key()).mark(pixels, 1, alpha=np.zeros(pixels.shape[:2], np.uint8)) == pixels).all()


def test_texture_is_marked_as_well() -> None:
    assert quality(texture(), marked(texture())).psnr_db > PSNR_DB - 0.1
