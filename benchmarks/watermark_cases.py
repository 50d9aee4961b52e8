"""The cases of `watermark_image`: pictures, and the attacks on them.

The cases are frozen in watermark_image_cases.json. The parameters of attacks are drawn from continuous ranges, so they
do not lie on the grids that the detector searches. Most pictures are part of scikit-image; every eighth case uses a
procedural picture.
"""

import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from common.errors import FailedPrecondition
from deepseek.watermark.arrays import Real
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.pixels import Pixels

CASES = Path(__file__).with_name("watermark_image_cases.json")
NUM_CASES = 432
CASES_SEED = 20_260_101
SIDE, LEAST_SIDE, MOST_SIDE = 512, 300, 700
SOURCES = (
    *("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "brick", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "retina", "colorwheel", "stereo_motorcycle", "clock", "cell"),
)
"""Pictures of scikit-image that can be loaded offline, except those with a side below 300 pixels (page, text)."""

PROCEDURAL = "procedural-"
NUM_KINDS = 3
SCALES, FACTORS, ASPECTS, MOST_ANGLE, CROPPED_AREA = (0.55, 1.4), (0.7, 1.3), (0.8, 1.25), 10.0, 0.5

Attack = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Case:
    """One image to be marked and attacked.

    Attributes:
        number: Number of the case, from 0.
        source: One of SOURCES, or `procedural-<number>`.
        box: Left, top, right and bottom of the part of the source that is used, in pixels.
        size: Width and height of the resized part, in pixels.
        flip: How the image is flipped: 0 not at all, 1 left to right, 2 top to bottom, 3 in both directions.
        key: Number from which the key is derived.
        id: Id of the mark.
        origin: Seed of the origins that the marker tries.
        bits: Seed of the bits that the marks of peers carry.
        resize: Factor by which the attack `resize` resizes the image.
        resize_jpeg: Factor by which the attack `resize_jpeg_75` resizes the image before compressing it.
        crop: Left, top, width and height of the crop, relative to the image.
        angle: Angle of the rotation, in degrees.
        expand: Whether the rotated image is enlarged so that no part is lost.
        noise: Seed of the noise.
        brightness: Factor by which the brightness changes.
        contrast: Factor by which the contrast changes.
    """

    number: int
    source: str
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    flip: int
    key: int
    id: int
    origin: int
    bits: int
    resize: float
    resize_jpeg: float
    crop: tuple[float, float, float, float]
    angle: float
    expand: bool
    noise: int
    brightness: float
    contrast: float


def make_cases(numbers: Iterable[int], seed: int) -> list[Case]:
    """Draws and returns the cases with the given numbers.

    Raises:
        FailedPrecondition: PACKAGE_MISSING if scikit-image is not installed.
    """
    sizes = {name: photograph(name).size for name in SOURCES}
    random = np.random.default_rng(seed)
    num_real, cases = 0, []
    for number in numbers:
        if number % 8 == 7:
            source, box, size = f"{PROCEDURAL}{number}", (0, 0, SIDE, SIDE), (SIDE, SIDE)
        else:
            source = SOURCES[num_real % len(SOURCES)]
            num_real += 1
            box, size = _draw_box(*sizes[source], random)
        aspect = math.sqrt(random.uniform(*ASPECTS))
        width, height = math.sqrt(CROPPED_AREA) * aspect, math.sqrt(CROPPED_AREA) / aspect
        crop = (random.uniform(0, 1 - width), random.uniform(0, 1 - height), width, height)
        cases.append(
            Case(
                number=number,
                source=source,
                box=box,
                size=size,
                flip=int(random.integers(4)),
                key=number,
                id=int(random.integers(1 << ID_BITS)),
                origin=int(random.integers(1 << 32)),
                bits=int(random.integers(1 << 32)),
                resize=math.exp(random.uniform(*np.log(SCALES))),
                resize_jpeg=math.exp(random.uniform(*np.log(SCALES))),
                crop=crop,
                angle=random.uniform(-MOST_ANGLE, MOST_ANGLE),
                expand=bool(random.integers(2)),
                noise=int(random.integers(1 << 32)),
                brightness=random.uniform(*FACTORS),
                contrast=random.uniform(*FACTORS),
            )
        )
    return cases


def _draw_box(
    width: int, height: int, random: np.random.Generator
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Draws the part of a picture to use, and returns the part's box and its size after resizing.

    The part is a random square, except that a picture with a side below 512 pixels is used whole and is not resized.
    """
    if min(height, width) < SIDE or (height, width) == (SIDE, SIDE):
        return (0, 0, width, height), (width, height)
    side = int(random.integers(SIDE, min(MOST_SIDE, height, width) + 1))
    left, top = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
    return (left, top, left + side, top + side), (SIDE, SIDE)


def write_cases() -> None:
    """Draws the cases and writes them to the file `CASES`, which must not exist yet.

    Raises:
        FileExistsError: The file already exists.
    """
    text = as_json(make_cases(range(NUM_CASES), CASES_SEED))
    with CASES.open("x", encoding="utf-8") as file:
        file.write(text)


def as_json(cases: Sequence[Case]) -> str:
    """Returns cases as JSON, in the format of the frozen file."""
    lines = ",\n".join(json.dumps(dataclasses.asdict(case)) for case in cases)
    return f"[\n{lines}\n]\n"


@cache
def read_cases() -> tuple[Case, ...]:
    """Returns the frozen cases."""
    return tuple(_case(fields) for fields in json.loads(CASES.read_text(encoding="utf-8")))


def _case(fields: dict[str, Any]) -> Case:
    return Case(**fields | {name: tuple(fields[name]) for name in ("box", "size", "crop")})


def whole_cases(number: int) -> list[Case]:
    """Returns the first `number` cases with images of 512 x 512 pixels."""
    return [case for case in read_cases() if case.size == (SIDE, SIDE)][:number]


# Pictures


@cache
def photograph(name: str) -> Image.Image:
    """Returns a picture that comes with scikit-image.

    Raises:
        FailedPrecondition: PACKAGE_MISSING if scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        message = "the pictures need the package scikit-image: pip install 'deepseek-mesh[peers]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
    pixels = getattr(data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels)  # the first picture of a stereo pair


def procedural(number: int, side: int = SIDE) -> Pixels:
    """Returns a procedural picture [side, side, 3]: noise with a natural spectrum, shapes on a gradient, or both."""
    random = np.random.default_rng([0x1DEA, number])
    kind = number % NUM_KINDS
    noise, shapes = _pink(random, side), _shapes(random, side)
    weight = (1.0, 0.0, random.uniform(0.2, 0.8))[kind]
    return np.clip(np.rint(weight * noise + (1 - weight) * shapes), 0, 255).astype(np.uint8)


def _pink(random: np.random.Generator, side: int) -> Real:
    """Returns noise whose power decreases with frequency, following a power law."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequencies[0, 0] = np.inf
    gains = frequencies ** (-random.uniform(1, 2) / 2)
    planes = random.normal(size=(4, side, side))
    grey, *colours = (np.fft.irfft2(np.fft.rfft2(plane) * gains, s=(side, side)) for plane in planes)
    picture = grey[..., None] + random.uniform(0, 0.5) * np.stack(colours, -1)
    picture *= random.uniform(20, 55) / picture.std()
    return np.asarray(picture + random.uniform(80, 170))


def _shapes(random: np.random.Generator, side: int) -> Real:
    """Returns ellipses, rectangles and triangles on a gradient, with a little noise."""
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:side, :side] / side - 0.5
    share = (0.5 + (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2))[..., None]
    first, second = random.uniform(0, 255, (2, 3))
    image = Image.fromarray((first * share + second * (1 - share)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(5, 40)):
        colour = (int(random.integers(256)), int(random.integers(256)), int(random.integers(256)))
        corners = random.uniform(-0.2, 1.2, (3, 2)) * side
        span = [*corners[:2].min(0), *corners[:2].max(0)]
        match int(random.integers(3)):
            case 0:
                draw.ellipse(span, fill=colour)
            case 1:
                draw.rectangle(span, fill=colour)
            case _:
                draw.polygon([(float(x), float(y)) for x, y in corners], fill=colour)
    return np.asarray(np.asarray(image) + random.normal(0, 2, (side, side, 1)))


def picture(case: Case) -> Pixels:
    """Returns the image of a case before it is marked, grey or RGB."""
    if case.source.startswith(PROCEDURAL):
        image = Image.fromarray(procedural(int(case.source.removeprefix(PROCEDURAL))))
    else:
        image = photograph(case.source)
    image = image.crop(case.box)
    if image.size != case.size:
        image = image.resize(case.size, Image.Resampling.LANCZOS)
    if case.flip & 1:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if case.flip & 2:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(image)


def coloured(pixels: Pixels) -> Pixels:
    """Returns an image as RGB."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


# Attacks


def attacks(case: Case) -> dict[str, Attack]:
    """Returns the attacks on the marked image of a case, keyed by name."""
    return {
        "none": lambda image: image,
        "jpeg_75": lambda image: _compressed(image, "JPEG", 75),
        "jpeg_50": lambda image: _compressed(image, "JPEG", 50),
        "webp_50": lambda image: _compressed(image, "WEBP", 50),
        "resize": lambda image: _resized(image, case.resize),
        "resize_jpeg_75": lambda image: _compressed(_resized(image, case.resize_jpeg), "JPEG", 75),
        "crop": lambda image: _cropped(image, *case.crop),
        "rotate": lambda image: image.rotate(case.angle, Image.Resampling.BICUBIC, expand=case.expand),
        "noise": lambda image: _noisy(image, case.noise),
        "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        "brightness": lambda image: ImageEnhance.Brightness(image).enhance(case.brightness),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(case.contrast),
    }


RESIZED = ("resize", "resize_jpeg_75")


def _compressed(image: Image.Image, kind: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file).convert(image.mode)


def _resized(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, left: float, top: float, width: float, height: float) -> Image.Image:
    x, y = round(left * image.width), round(top * image.height)
    return image.crop((x, y, x + round(width * image.width), y + round(height * image.height)))


def _noisy(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image)
    noise = np.random.default_rng(seed).normal(0, 10, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))
