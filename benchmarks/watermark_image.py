"""Marks in images beside the strongest published ones: in the same images, with the same error, after the same attacks.

The cases are frozen in watermark_image_cases.json: which part of which picture, key, id, and what attacks do, drawn
uniformly and so off the grids that a detector searches. Pictures are those that come with scikit-image, and in every
eighth case a procedural one. Parts of one picture are not independent, so beside the Clopper-Pearson bound there is a
bootstrap over pictures. An attack is behind a peer if a one-sided exact McNemar test says so at 95 %.

False alarms are counted in procedural pictures, which are independent: each without a mark, and marked, with keys that
are all others. Averaging is what can be done without a key: the mean of an image's tiles, or of what is fine in many
images with one key and id, is taken away again. Speed is measured first, alone and with one thread.
"""

import argparse
import dataclasses
import io
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from rich.progress import track

from benchmarks.report import ROOT, certify, progress_file, provenance, read_progress
from benchmarks.watermark_peers import PEERS, embed_like, rounded
from benchmarks.watermark_text import is_below
from common.errors import FailedPrecondition
from deepseek.watermark.image.detector import ImageDetector
from deepseek.watermark.image.marker import ImageMarker, Pixels, quality, squared_error
from deepseek.watermark.image.payload import ID_BITS
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.tail import log_binomial_tail
from deepseek.watermark.verdict import Verdict

CASES = Path(__file__).with_name("watermark_image_cases.json")
NUM_CASES = 432
CASES_SEED = 20_260_101
SIDE, LEAST_SIDE, MOST_SIDE = 512, 300, 700
SOURCES = (
    *("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "brick", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "retina", "colorwheel", "stereo_motorcycle", "clock", "cell"),
)
"""Pictures of scikit-image that load offline, without those of less than 300 pixels (page, text)."""

PROCEDURAL = "procedural-"
KINDS = ("ours", *PEERS, "null", "tiles", "many")
TIMED_PEER = "blind-watermark"
NUM_KINDS = 3
SCALES, FACTORS, ASPECTS, MOST_ANGLE, CROPPED_AREA = (0.55, 1.4), (0.7, 1.3), (0.8, 1.25), 10.0, 0.5
TILES = (64, 128, 256, 512)
FINE_RADIUS = 8
NUM_KEPT_P = 2
"""p-values of wrong keys that are kept of each picture."""

# Numbers of keys and procedural pictures; cases have the keys and pictures from 0.
NULL_NUMBER, TILE_NUMBER, MANY_NUMBER = 1_000_000, 2_000_000, 3_000_000

Attack = Callable[[Image.Image], Image.Image]
Record = dict[str, Any]
Real = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """One image to be marked and attacked.

    Attributes:
        number: From 0.
        source: One of SOURCES, or `procedural-<number>`.
        box: Left, top, right and bottom of what is taken, pixels.
        size: Width and height that it is resized to, pixels.
        flip: 1 for left and right, 2 for top and bottom, 3 for both.
        key: Number of the key.
        id: What the mark says.
        origin: Seed of the pattern's origin.
        bits: Seed of what peers carry.
        resize: Factor of the size.
        resize_jpeg: The same, for before compression.
        crop: Left, top, width and height, parts of the image.
        angle: Degrees.
        expand: Whether turning makes the image larger, so that all of it is kept.
        noise: Seed.
        brightness: Factor.
        contrast: Factor.
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


@dataclass(frozen=True)
class Run:
    """How much is measured. Peers are slow and get the first cases only; `peers` has the number for each."""

    cases: int
    peers: Mapping[str, int]
    nulls: int
    wrong_keys: int
    tiles: int
    many: int
    timed: int
    searched: int


FULL = Run(NUM_CASES, {"dwtDctSvd": 200, "blind-watermark": 100, "rivaGan": 40}, 1000, 30, 64, 100, 20, 100)
QUICK = Run(4, {"dwtDctSvd": 2, "blind-watermark": 1, "rivaGan": 1}, 2, 4, 1, 4, 2, 4)


# Cases


def make_cases(shapes: Mapping[str, tuple[int, int]]) -> list[Case]:
    """Draws the cases.

    Args:
        shapes: Height and width of every source.
    """
    random = np.random.default_rng(CASES_SEED)
    num_real, cases = 0, []
    for number in range(NUM_CASES):
        if number % 8 == 7:
            source, box, size = f"{PROCEDURAL}{number}", (0, 0, SIDE, SIDE), (SIDE, SIDE)
        else:
            source = SOURCES[num_real % len(SOURCES)]
            num_real += 1
            box, size = _draw_box(*shapes[source], random)
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
    height: int, width: int, random: np.random.Generator
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A square part of a large picture, to be resized; all of another."""
    if min(height, width) < SIDE or (height, width) == (SIDE, SIDE):
        return (0, 0, width, height), (width, height)
    side = int(random.integers(SIDE, min(MOST_SIDE, height, width) + 1))
    left, top = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
    return (left, top, left + side, top + side), (SIDE, SIDE)


def write_cases() -> None:
    """Freezes the cases, once.

    Raises:
        FileExistsError: They are frozen.
    """
    cases = make_cases({name: np.asarray(photograph(name)).shape[:2] for name in SOURCES})
    lines = ",\n".join(json.dumps(dataclasses.asdict(case)) for case in cases)
    with CASES.open("x", encoding="utf-8") as file:
        file.write(f"[\n{lines}\n]\n")


@cache
def read_cases() -> tuple[Case, ...]:
    """The frozen cases."""
    return tuple(_case(fields) for fields in json.loads(CASES.read_text(encoding="utf-8")))


def _case(fields: dict[str, Any]) -> Case:
    return Case(**fields | {name: tuple(fields[name]) for name in ("box", "size", "crop")})


def whole_cases(number: int) -> list[Case]:
    """The first cases with images of 512 x 512."""
    return [case for case in read_cases() if case.size == (SIDE, SIDE)][:number]


# Pictures


@cache
def photograph(name: str) -> Image.Image:
    """A picture of scikit-image.

    Raises:
        FailedPrecondition: PACKAGE_MISSING.
    """
    try:
        from skimage import data
    except ImportError as error:
        message = "the pictures come with the package scikit-image: pip install 'deepseek-mesh[peers]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
    pixels = getattr(data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels)  # the first of two for two eyes


def procedural(number: int, side: int = SIDE) -> Pixels:
    """A picture that was never taken, (side, side, 3): noise as pictures have it, shapes on a gradient, or both."""
    random = np.random.default_rng([0x1DEA, number])
    kind = number % NUM_KINDS
    noise, shapes = _pink(random, side), _shapes(random, side)
    weight = (1.0, 0.0, random.uniform(0.2, 0.8))[kind]
    return np.clip(np.rint(weight * noise + (1 - weight) * shapes), 0, 255).astype(np.uint8)


def _pink(random: np.random.Generator, side: int) -> Real:
    """Noise whose power falls with a power of the frequency."""
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequencies[0, 0] = np.inf
    gains = frequencies ** (-random.uniform(1, 2) / 2)
    planes = random.normal(size=(4, side, side))
    grey, *colours = (np.fft.irfft2(np.fft.rfft2(plane) * gains, s=(side, side)) for plane in planes)
    picture = grey[..., None] + random.uniform(0, 0.5) * np.stack(colours, -1)
    picture *= random.uniform(20, 55) / picture.std()
    return np.asarray(picture + random.uniform(80, 170))


def _shapes(random: np.random.Generator, side: int) -> Real:
    """Ellipses, rectangles and triangles on a gradient, with a little noise."""
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
    """The image of a case, grey or in colours."""
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
    """The same in red, green and blue."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


# Attacks


def attacks(case: Case) -> dict[str, Attack]:
    """What is done to the marked image of a case, by name."""
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


def fine(pixels: Pixels) -> Real:
    """What is fine in an image: the image without itself blurred."""
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(FINE_RADIUS))
    return np.asarray(pixels - np.asarray(blurred, np.float64))


def without(pixels: Pixels, difference: Real) -> Pixels:
    """An image with something taken away."""
    return np.clip(np.rint(pixels - difference), 0, 255).astype(np.uint8)


def without_tile(pixels: Pixels, tile: int) -> Pixels:
    """An image without the mean of what is fine in its tiles."""
    rows, columns = pixels.shape[0] // tile, pixels.shape[1] // tile
    whole = fine(pixels)[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, -1).mean((0, 2))
    repeats = (math.ceil(pixels.shape[0] / tile), math.ceil(pixels.shape[1] / tile), 1)
    return without(pixels, np.tile(whole, repeats)[: pixels.shape[0], : pixels.shape[1]].reshape(pixels.shape))


# Measuring


def key_of(number: int) -> WatermarkKey:
    """A key of its own for every number."""
    return derive_key(number.to_bytes(32, "big"), tenant="benchmark", modality="image", epoch=0)


def marked_picture(case: Case) -> tuple[Pixels, Pixels]:
    """The image of a case, and the same with our mark."""
    original = picture(case)
    return original, ImageMarker(key_of(case.key)).mark(original, case.id, np.random.default_rng(case.origin))


def measure_ours(case: Case) -> Record:
    """Our mark in one image after every attack."""
    original, marked = marked_picture(case)
    detector = ImageDetector(key_of(case.key))
    found = {
        name: detector.detect(np.asarray(attack(Image.fromarray(marked)))).id for name, attack in attacks(case).items()
    }
    measured = quality(original, marked)
    return {
        "source": case.source,
        "psnr_db": measured.psnr_db,
        "ssim": measured.ssim,
        "exact": {name: one == case.id for name, one in found.items()},
        "wrong_ids": sum(one not in (None, case.id) for one in found.values()),
    }


def measure_peer(name: str, case: Case) -> Record:
    """A peer's mark in the same image with the same error, after the same attacks."""
    peer = PEERS[name]
    original, ours = (coloured(pixels) for pixels in marked_picture(case))
    bits = np.random.default_rng(case.bits).integers(0, 2, peer.num_bits).astype(np.uint8)
    embedded = embed_like(peer, original, bits, squared_error(original, ours))
    exact = {}
    for attack_name, attack in attacks(case).items():
        image = attack(Image.fromarray(embedded.pixels))
        if attack_name in RESIZED:  # which the peers do not look for
            image = image.resize(original.shape[1::-1], Image.Resampling.BICUBIC)
        exact[attack_name] = _is_read(peer.decode(np.asarray(image), embedded.strength), bits)
    return {
        "psnr_db": _psnr_db(original, embedded.pixels),
        "native_psnr_db": _psnr_db(original, embedded.native),
        "native_exact": _is_read(peer.decode(embedded.native, 1.0), bits),
        "exact": exact,
    }


def _is_read(read: npt.NDArray[np.uint8] | None, bits: npt.NDArray[np.uint8]) -> bool:
    return read is not None and bool((read == bits).all())


def _psnr_db(original: Pixels, marked: Pixels) -> float:
    return 10 * math.log10(255**2 / max(squared_error(original, marked), 1e-10))


def measure_null(number: int, num_keys: int) -> Record:
    """A procedural picture without a mark, and marked but looked at with other keys."""
    first = NULL_NUMBER + number * (num_keys + 1)
    original, random = procedural(NULL_NUMBER + number), np.random.default_rng(number)
    marked = ImageMarker(key_of(first)).mark(original, int(random.integers(1 << ID_BITS)), random)
    found = [ImageDetector(key_of(first)).detect(original)]
    found += [ImageDetector(key_of(first + 1 + wrong)).detect(marked) for wrong in range(num_keys)]
    p = [math.exp(one.log_p) for one in found]
    return {
        "num_keys": num_keys,
        "false_alarms": sum(one.verdict == Verdict.MARKED or one.id is not None for one in found),
        "p": p[0],
        "p_wrong_key": p[1 : 1 + NUM_KEPT_P],
    }


def measure_tiles(number: int) -> Record:
    """One marked image without its mean tile, for every size of tiles; for the largest a larger image."""
    case = whole_cases(number + 1)[-1]
    marked = marked_picture(case)[1]
    exact = {}
    for tile in TILES:
        if tile >= SIDE:  # a single tile has no mean
            original = procedural(TILE_NUMBER + number, 2 * tile)
            marked = ImageMarker(key_of(case.key)).mark(original, case.id, np.random.default_rng(case.origin))
        exact[str(tile)] = ImageDetector(key_of(case.key)).detect(without_tile(marked, tile)).id == case.id
    return {"exact": exact}


def measure_many(num_images: int) -> Record:
    """Many images with one key and id, without what is fine in all of them."""
    cases, key = whole_cases(num_images), key_of(MANY_NUMBER)
    marker, detector, message = ImageMarker(key), ImageDetector(key), cases[0].id
    marked = [marker.mark(coloured(picture(case)), message, np.random.default_rng(case.origin)) for case in cases]
    common = np.mean([fine(one) for one in marked], 0)
    return {"exact": [detector.detect(without(one, common)).id == message for one in marked]}


def measure(kind: str, number: int, run: Run) -> Record:
    """One part of the benchmark: ours or a peer in a case, a picture without a mark, tiles, or many images."""
    match kind:
        case "ours":
            record = measure_ours(read_cases()[number])
        case "null":
            record = measure_null(number, run.wrong_keys)
        case "tiles":
            record = measure_tiles(number)
        case "many":
            record = measure_many(run.many)
        case _:
            record = measure_peer(kind, read_cases()[number])
    return {"kind": kind, "number": number, **record}


def speed(run: Run) -> dict[str, float | None]:
    """Median times on one core, and how many times as fast as blind-watermark; and a high one of a search in vain."""
    times: dict[str, list[float]] = {name: [] for name in ("embed", "detect", "search", "peer_embed", "peer_detect")}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        times[name].append((time.perf_counter() - start) * 1000)

    with_peer = PEERS[TIMED_PEER].version is not None
    for case in whole_cases(run.timed):
        original, key = picture(case), key_of(case.key)
        marker, detector = ImageMarker(key), ImageDetector(key)
        with timed("embed"):
            marked = marker.mark(original, case.id)
        with timed("detect"):
            detector.detect(marked)
        if with_peer:
            bits = np.random.default_rng(case.bits).integers(0, 2, PEERS[TIMED_PEER].num_bits).astype(np.uint8)
            image = coloured(original)
            with timed("peer_embed"):
                embedded = PEERS[TIMED_PEER].embed(image, bits, 1.0)
            read = rounded(embedded)
            with timed("peer_detect"):
                PEERS[TIMED_PEER].decode(read, 1.0)
    detector = ImageDetector(key_of(NULL_NUMBER))
    for number in range(run.searched):
        original = procedural(NULL_NUMBER + number)
        with timed("search"):
            detector.detect(original)
    medians = {name: float(np.median(some)) for name, some in times.items() if some}
    return {
        "embed_ms": medians["embed"],
        "detect_ms": medians["detect"],
        "search_p95_ms": float(np.quantile(times["search"], 0.95)),
        "embed_times_blind_watermark": medians["peer_embed"] / medians["embed"] if with_peer else None,
        "detect_times_blind_watermark": medians["peer_detect"] / medians["detect"] if with_peer else None,
    }


# Statistics


def lower_bound(num_hits: int, num_cases: int, level: float = 0.05) -> float:
    """Clopper and Pearson's lower bound of a probability, one-sided: it is more, but for a probability of `level`.

    >>> round(lower_bound(427, 427), 4)
    0.993
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        is_too_low = log_binomial_tail(num_cases, num_hits, math.log(middle)) < math.log(level)
        low, high = (middle, high) if is_too_low else (low, middle)
    return low


def upper_bound(num_hits: int, num_cases: int, level: float = 0.05) -> float:
    """The upper bound, as `lower_bound`."""
    return 1 - lower_bound(num_cases - num_hits, num_cases, level)


def uniformity(p: Sequence[float]) -> float:
    """p-value of Kolmogorov and Smirnov's test that these are uniform from 0 to 1; by Stephens (1970).

    >>> round(uniformity([(i + 0.5) / 100 for i in range(100)]), 6)
    1.0
    """
    count, ranks = len(p), np.arange(len(p))
    ordered = np.sort(p)
    distance = float(max((ordered - ranks / count).max(), ((ranks + 1) / count - ordered).max()))
    scaled = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    if scaled < 0.2:  # where the series converges slowly, to 1
        return 1.0
    return min(1.0, 2 * sum(math.copysign(math.exp(-2 * (k * scaled) ** 2), k % 2 - 0.5) for k in range(1, 101)))


def source_interval(sources: Sequence[str], hits: Sequence[bool]) -> list[float]:
    """A 95 % interval of the share of hits, by a bootstrap over sources."""
    names = sorted(set(sources))
    where = np.array([names.index(source) for source in sources])
    num_cases = np.bincount(where, minlength=len(names))
    num_hits = np.bincount(where, np.asarray(hits, float), minlength=len(names))
    drawn = np.random.default_rng(0).integers(len(names), size=(10_000, len(names)))
    shares = num_hits[drawn].sum(1) / num_cases[drawn].sum(1)
    return [float(bound) for bound in np.quantile(shares, [0.025, 0.975])]


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The figures that records give."""
    ordered = sorted(records, key=lambda record: record["number"])
    by_kind = {kind: [one for one in ordered if one["kind"] == kind] for kind in KINDS}
    ours, nulls = by_kind["ours"], by_kind["null"]
    hits = {name: [one["exact"][name] for one in ours] for name in ours[0]["exact"]}
    exact = {name: float(np.mean(some)) for name, some in hits.items()}
    worst = min(exact, key=lambda name: exact[name])
    false_alarms = sum(one["false_alarms"] for one in nulls)
    num_pairs = sum(one["num_keys"] + 1 for one in nulls)
    tiles = {str(tile): float(np.mean([one["exact"][str(tile)] for one in by_kind["tiles"]])) for tile in TILES}
    peers = {name: _peer_summary(name, by_kind[name], ours) for name in PEERS if by_kind[name]}
    return {
        "n": len(ours),
        "psnr_db": float(np.mean([one["psnr_db"] for one in ours])),
        "psnr_db_min": min(one["psnr_db"] for one in ours),
        "ssim": float(np.mean([one["ssim"] for one in ours])),
        "ssim_min": min(one["ssim"] for one in ours),
        "exact": exact,
        "worst_attack": worst,
        "worst_attack_exact": exact[worst],
        "worst_attack_interval": [lower_bound(sum(hits[worst]), len(ours)), 1.0],
        "worst_attack_source_interval": source_interval([one["source"] for one in ours], hits[worst]),
        "fpr_images": len(nulls),
        "fpr_keys": num_pairs,
        "fpr_pairs": num_pairs,
        "false_alarms": false_alarms,
        "fpr_upper": upper_bound(false_alarms, num_pairs),
        "wrong_ids": sum(one["wrong_ids"] for one in ours),
        "ks_null": uniformity([one["p"] for one in nulls]),
        "ks_wrong_key": uniformity([p for one in nulls for p in one["p_wrong_key"]]),
        "tile_averaging": tiles,
        "tile_averaging_exact": min(tiles.values()),
        "many_averaging_exact": float(np.mean([hit for one in by_kind["many"] for hit in one["exact"]])),
        "attacks_behind_peers": sum(len(peer["behind"]) for peer in peers.values()) if peers else None,
        "peers": peers or None,
    }


def _peer_summary(name: str, theirs: Sequence[Record], ours: Sequence[Record]) -> dict[str, Any]:
    """The figures of a peer, and the attacks after which ours is read significantly less often in the same cases."""
    exact_of = {one["number"]: one["exact"] for one in ours}
    hits = {attack: [one["exact"][attack] for one in theirs] for attack in theirs[0]["exact"]}
    return {
        "package": PEERS[name].package,
        "version": PEERS[name].version,
        "bits": PEERS[name].num_bits,
        "n": len(theirs),
        "psnr_db": float(np.mean([one["psnr_db"] for one in theirs])),
        "native_psnr_db": float(np.mean([one["native_psnr_db"] for one in theirs])),
        "native_exact": float(np.mean([one["native_exact"] for one in theirs])),
        "exact": {attack: float(np.mean(some)) for attack, some in hits.items()},
        "behind": [
            attack
            for attack, some in hits.items()
            if is_below([exact_of[one["number"]][attack] for one in theirs], some)
        ],
    }


def write_figure(path: Path, result: Mapping[str, Any], case: Case) -> None:
    """Draws how often marks were read after every attack, and one image, marked, and the difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), dpi=120, layout="constrained")
    halves: Any = figure.subfigures(2)
    upper, lower = halves
    axes = upper.subplots()
    series = {"ours, 48-bit ids": result} | {
        f"{name}, {peer['bits']} bits": peer for name, peer in (result["peers"] or {}).items()
    }
    names, width = list(result["exact"]), 0.8 / len(series)
    for index, (label, one) in enumerate(series.items()):
        rates, count = np.array([one["exact"][name] for name in names]), one["n"]
        hits = [round(rate * count) for rate in rates]
        below = [rate - lower_bound(hit, count, 0.025) for rate, hit in zip(rates, hits, strict=True)]
        above = [upper_bound(hit, count, 0.025) - rate for rate, hit in zip(rates, hits, strict=True)]
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        errors = np.maximum([below, above], 0)
        axes.bar(places, rates, width, yerr=errors, label=f"{label} (n = {count})", error_kw={"lw": 0.8})
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
    axes.set(ylabel="read without an error", ylim=(0, 1.05))
    upper.legend(loc="outside upper center", ncols=len(series), frameon=False)
    original, marked = marked_picture(case)
    difference = np.clip(128 + 20 * (marked.astype(int) - original), 0, 255).astype(np.uint8)
    measured = quality(original, marked)
    titles = ("original", f"marked, {measured.psnr_db:.1f} dB, SSIM {measured.ssim:.3f}", "difference x 20")
    for plot, pixels, title in zip(lower.subplots(1, 3), (original, marked, difference), titles, strict=True):
        plot.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        plot.set_title(title)
        plot.set_axis_off()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def tasks(run: Run) -> list[tuple[str, int]]:
    """Everything that is to be measured, what takes longest first."""
    peers = {name: run.peers[name] for name in reversed(PEERS) if PEERS[name].version is not None}
    counts = {"many": 1, **peers, "ours": run.cases, "tiles": run.tiles, "null": run.nulls}
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def measured(run: Run, cache: Path | None) -> Iterator[Record]:
    """A record of every task, those in the cache from there."""
    known = {(one["kind"], one["number"]): one for one in (read_progress(cache) if cache else ())}
    yield from (known[task] for task in tasks(run) if task in known)
    missing = [task for task in tasks(run) if task not in known]
    with _pool(os.cpu_count()) as pool:
        under_way = [pool.submit(measure, *task, run) for task in missing]
        for one in track(futures.as_completed(under_way), "images", total=len(under_way), transient=True):
            record = one.result()
            if cache:
                with cache.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            yield record


def _pool(num_processes: int | None) -> futures.ProcessPoolExecutor:
    """Processes with a thread each; from scratch, since libraries count threads when they are loaded."""
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"})
    return futures.ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))


def main() -> None:
    """Measures, prints, and certifies if the run was full and the tree clean."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark_image", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="about a minute; certifies nothing")
    parser.add_argument("--make-cases", action="store_true", help="freeze the cases; only where there are none")
    arguments = parser.parse_args()
    try:
        photograph(SOURCES[0])
    except FailedPrecondition as error:
        parser.error(error.message)
    if arguments.make_cases:
        write_cases()
        return
    for name, peer in PEERS.items():
        if peer.version is None:
            print(f"without {name}: pip install 'deepseek-mesh[peers]'", file=sys.stderr)
    run, start = QUICK if arguments.quick else FULL, provenance()
    cache = None if arguments.quick else progress_file("watermark_image", start, "full")
    with _pool(1) as pool:
        times = pool.submit(speed, run).result()
    result = {**summary(list(measured(run, cache))), **times, **start}
    if cache:
        cache.unlink()
    certify("watermark_image", result, full=not arguments.quick)
    if not arguments.quick and not result["changed"]:
        write_figure(ROOT / "docs" / "figures" / "watermark_image.png", result, read_cases()[0])
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<28} {value}")


if __name__ == "__main__":
    main()
