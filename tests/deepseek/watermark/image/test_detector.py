"""Marks are found after common changes of images, and none is found where there is none."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from deepseek.watermark.image.bch_code import NUM_BITS, BchCode
from deepseek.watermark.image.detector import _LEAD, ImageDetector
from deepseek.watermark.image.marker import ImageMarker
from deepseek.watermark.image.payload import MAC_BITS
from deepseek.watermark.image.pixels import Pixels
from deepseek.watermark.keys import derive_key
from deepseek.watermark.verdict import LOG_MARKED, Verdict
from tests.deepseek.watermark.image.keys import a_key
from tests.harness.images import drawing, photograph, texture

ID = 0x5EED_0F_1DEA5

Attack = Callable[[Image.Image], Image.Image]


def compressed(kind: str, quality: int) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, kind, quality=quality)
        return Image.open(file).convert(image.mode)

    return attack


def resized(scale: float) -> Attack:
    return lambda image: image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )


def cropped(left: float, top: float, side: float) -> Attack:
    return lambda image: image.crop(
        (
            round(left * image.width),
            round(top * image.height),
            round((left + side) * image.width),
            round((top + side) * image.height),
        )
    )


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 10, (image.height, image.width, len(image.getbands())))
    pixels = np.asarray(image) + noise.reshape(np.asarray(image).shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


ATTACKS: dict[str, Attack] = {
    "none": lambda image: image,
    "jpeg 50": compressed("JPEG", 50),
    "webp 50": compressed("WEBP", 50),
    "made smaller": resized(0.57),
    "made larger": resized(1.37),
    "cropped to half": cropped(0.21, 0.04, 0.71),
    "turned": lambda image: image.rotate(-8.3, Image.Resampling.BICUBIC),
    "turned with all of it": lambda image: image.rotate(5.7, Image.Resampling.BICUBIC, expand=True),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "on its side": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "noise": noisy,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "smaller and compressed": lambda image: compressed("JPEG", 75)(resized(0.61)(image)),
    "grey": lambda image: image.convert("L"),
    "turned, smaller, cropped": lambda image: cropped(0.1, 0.15, 0.8)(
        resized(0.83)(image.rotate(4.1, Image.Resampling.BICUBIC))
    ),
}

HARD = ("none", "jpeg 50", "webp 50", "turned", "cropped to half", "smaller and compressed")


def marked(pixels: Pixels, number: int = 0) -> Pixels:
    return ImageMarker(a_key()).mark(pixels, ID, random=np.random.default_rng(number))


@pytest.fixture(scope="module")
def detector() -> ImageDetector:
    return ImageDetector(a_key())


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_id_is_read_after(attack: str, detector: ImageDetector) -> None:
    image = ATTACKS[attack](Image.fromarray(marked(photograph())))
    found = detector.detect(np.asarray(image))
    assert (found.verdict, found.id) == (Verdict.MARKED, ID)
    assert found.log_p <= LOG_MARKED


@pytest.mark.parametrize("attack", HARD)
def test_texture_with_little_room_keeps_its_mark(attack: str, detector: ImageDetector) -> None:
    image = ATTACKS[attack](Image.fromarray(marked(texture())))
    assert detector.detect(np.asarray(image)).id == ID


@pytest.mark.parametrize("attack", HARD)
def test_a_flat_drawing_keeps_its_mark(attack: str, detector: ImageDetector) -> None:
    image = ATTACKS[attack](Image.fromarray(marked(drawing())))
    assert detector.detect(np.asarray(image)).id == ID


@pytest.mark.parametrize("size", [(1500, 1100), (128, 128), (700, 150)])
def test_images_of_any_size_are_read(size: tuple[int, int], detector: ImageDetector) -> None:
    assert detector.detect(marked(photograph(*size))).id == ID


def test_a_large_image_is_read_after_it_was_scaled_down(detector: ImageDetector) -> None:
    image = Image.fromarray(marked(photograph(1500, 1100))).resize((450, 330), Image.Resampling.LANCZOS)
    assert detector.detect(np.asarray(image)).id == ID


def test_the_geometry_describes_the_rotation_and_scale(detector: ImageDetector) -> None:
    turned = Image.fromarray(marked(photograph())).rotate(-6.5, Image.Resampling.BICUBIC)
    geometry = detector.detect(np.asarray(turned)).geometry
    assert geometry is not None
    assert math.degrees(math.remainder(geometry.angle, 2 * math.pi)) == pytest.approx(6.5, abs=0.1)
    assert geometry.log_scale == pytest.approx(0, abs=0.003)


def test_the_mark_is_located_in_a_collage(detector: ImageDetector) -> None:
    collage = np.full((700, 900, 3), 90, np.uint8)
    collage += np.random.default_rng(0).integers(0, 30, collage.shape, dtype=np.uint8)
    collage[100:654, 300:772] = marked(photograph())
    region = detector.detect(collage, locate=True).region
    assert region is not None
    expected = (300, 100, 772, 654)
    assert np.abs(np.subtract((region.left, region.top, region.right, region.bottom), expected)).max() < 60


def test_one_of_two_marks_is_reported_with_its_own_region(detector: ImageDetector) -> None:
    pair = np.full((600, 1100, 3), 128, np.uint8)
    pair[20:574, 20:492] = marked(photograph())
    pair[20:574, 600:1072] = ImageMarker(a_key()).mark(photograph(), ID + 1, random=np.random.default_rng(9))
    found = detector.detect(pair, locate=True)
    assert found.region is not None
    assert found.id in (ID, ID + 1)
    left = 20 if found.id == ID else 600
    assert abs(found.region.left - left) < 60
    assert abs(found.region.right - left - 472) < 60


def test_a_black_image_is_not_an_error(detector: ImageDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detector.detect(np.zeros((200, 200), np.uint8)).id is None
    monkeypatch.setattr(detector._payload, "open", lambda data: data >> 16)  # a hash that matches by chance
    assert detector.detect(np.zeros((200, 200), np.uint8)).id is None


_AXIS = np.arange(512)
REGULAR = {
    "ruled": np.tile(_AXIS % 20 == 0, (512, 1)),
    "a grid": (_AXIS % 8 == 0) | (_AXIS % 8 == 0)[:, None],
    "dots": (_AXIS % 8 == 0) & (_AXIS % 8 == 0)[:, None],
    "stripes": np.tile(_AXIS // 16 % 2 == 0, (512, 1)),
    "a chessboard": (_AXIS // 32 + _AXIS[:, None] // 32) % 2 == 0,
    "a wave": np.tile(np.sin(_AXIS * 0.3) > 0, (512, 1)),
}
"""Images with few frequencies, in which a single sinusoid may dominate a bit."""


@pytest.mark.parametrize("name", REGULAR)
def test_regular_images_are_not_mistaken_for_marked(name: str) -> None:
    pixels = (REGULAR[name] * 255).astype(np.uint8)
    p = []
    for tenant in ("u17", "u46", "u129", *(f"v{i}" for i in range(20))):
        detector = ImageDetector(derive_key(bytes(32), tenant=tenant, modality="image", epoch=0))
        for image in (pixels, 255 - pixels):
            found = detector.detect(image, search=False)
            assert (found.verdict, found.id) in ((Verdict.INCONCLUSIVE, None), (Verdict.NOT_MARKED, None))
            p.append(math.exp(found.log_p))
    assert min(p) > 1e-3


def test_fewer_than_one_in_a_million_readings_returns_a_wrong_id() -> None:
    """Strengths are those at which words are often wrong; one in 2^16 wrong words has a matching hash."""
    random, code, num_wrong = np.random.default_rng(8), BchCode(), 0
    for strength in (0.8, 0.9, 1.0, 1.1):
        for _ in range(150):
            data = int(random.integers(1 << 63))
            soft = strength * (2.0 * code.encode(data) - 1) + random.normal(size=NUM_BITS)
            word, other = code.decode(soft, 2)
            power = 2 * NUM_BITS  # of sinusoids that hold only noise
            leads = word.agreement**2 - max(0.0, other.agreement) ** 2 > _LEAD * power
            num_wrong += leads and word.data != data
    assert num_wrong / 600 * 2**-MAC_BITS < 1e-6


@pytest.mark.parametrize("pixels", [photograph(), texture(), drawing()], ids=["photograph", "texture", "drawing"])
def test_no_mark_is_found_without_one_or_with_another_key(pixels: Pixels, detector: ImageDetector) -> None:
    assert detector.detect(pixels).verdict is Verdict.NOT_MARKED
    other = ImageDetector(derive_key(bytes(32), tenant="clinic", modality="image", epoch=0))
    found = other.detect(marked(pixels))
    assert (found.id, found.region) == (None, None)
    assert found.log_p > math.log(1e-3)


def test_p_values_without_a_mark_are_uniform() -> None:
    """The distribution is over keys, for one image."""
    image = photograph(160, 150)
    p = np.sort([math.exp(ImageDetector(a_key(epoch)).detect(image).log_p) for epoch in range(40)])
    steps = np.arange(len(p)) / len(p)
    distance = max(np.abs(p - steps).max(), np.abs(p - steps - 1 / len(p)).max())
    assert distance < 1.95 / math.sqrt(len(p))  # Kolmogorov-Smirnov: exceeded once in 1,000 times


@pytest.mark.parametrize("shape", [(1, 1), (63, 500), (40, 40, 3)])
def test_an_image_that_is_too_small_is_inconclusive(shape: tuple[int, ...], detector: ImageDetector) -> None:
    found = detector.detect(np.zeros(shape, np.uint8))
    assert (found.verdict, found.id, found.log_p) == (Verdict.INCONCLUSIVE, None, 0.0)


def test_an_empty_image_is_inconclusive(detector: ImageDetector) -> None:
    assert detector.detect(np.full((300, 300), 128, np.uint8)).verdict is Verdict.INCONCLUSIVE


def test_without_the_search_an_aligned_mark_is_found_and_a_rotated_one_is_not(detector: ImageDetector) -> None:
    image = marked(photograph())
    assert detector.detect(image, search=False).id == ID
    turned = np.asarray(Image.fromarray(image).rotate(7, Image.Resampling.BICUBIC))
    assert detector.detect(turned, search=False).verdict is Verdict.INCONCLUSIVE


def test_subtracting_the_mean_of_many_marked_images_removes_no_mark(detector: ImageDetector) -> None:
    images = [marked(photograph(), number).astype(float) for number in range(12)]
    shared = np.mean(images, axis=0) - photograph()
    for image in images[:3]:
        cleaned = np.clip(np.rint(image - shared), 0, 255).astype(np.uint8)
        assert detector.detect(cleaned).id == ID


@pytest.mark.parametrize("tile", [64, 128, 256])
def test_subtracting_the_mean_of_an_images_tiles_removes_no_mark(tile: int, detector: ImageDetector) -> None:
    image = marked(photograph(512, 512)).astype(float)
    fine = image - np.asarray(Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.GaussianBlur(3)))
    count = 512 // tile
    mean = fine.reshape(count, tile, count, tile, 3).mean((0, 2))
    cleaned = np.clip(np.rint(image - np.tile(mean, (count, count, 1))), 0, 255).astype(np.uint8)
    assert detector.detect(cleaned).id == ID
