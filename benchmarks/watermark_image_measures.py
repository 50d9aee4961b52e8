"""Measures marks in images: survival of attacks and averaging, false alarms, and speed."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.report import Record
from benchmarks.watermark_cases import (
    NUM_CASES,
    RESIZED,
    SIDE,
    Case,
    attacks,
    coloured,
    picture,
    procedural,
    read_cases,
    whole_cases,
)
from benchmarks.watermark_peers import PEERS, embed_like, rounded
from deepseek.watermark.arrays import Real
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.detector import ImageDetector
from deepseek.watermark.image.marker import ImageMarker
from deepseek.watermark.image.pixels import Pixels
from deepseek.watermark.image.quality import quality, squared_error
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.verdict import Verdict

TIMED_PEER = "blind-watermark"
TILES = (64, 128, 256, 512)
FINE_RADIUS = 8
NUM_KEPT_P = 2
"""Number of p-values to record per picture, out of those computed with wrong keys."""

# First numbers of the keys and procedural pictures that belong to no case. The numbers of the cases start at 0.
NULL_NUMBER, TILE_NUMBER, MANY_NUMBER = 1_000_000, 2_000_000, 3_000_000


@dataclass(frozen=True)
class Run:
    """The size of a benchmark run.

    Attributes:
        cases: Number of cases in which our mark is measured.
        peers: Number of cases in which each peer's mark is measured, keyed by the peer's name. Peers are slow.
        nulls: Number of procedural pictures that are searched for false alarms.
        wrong_keys: Number of wrong keys with which a marked copy of each such picture is searched.
        tiles: Number of images whose mean tile is subtracted.
        many: Number of images whose mean is subtracted.
        timed: Number of images for which marking and detection are timed.
        searched: Number of unmarked images for which the search is timed.
    """

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


def fine(pixels: Pixels) -> Real:
    """Returns the fine structure of an image: the image minus its blurred copy."""
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(FINE_RADIUS))
    return np.asarray(pixels - np.asarray(blurred, np.float64))


def without(pixels: Pixels, difference: Real) -> Pixels:
    """Returns an image minus a difference, rounded and clipped to pixel values."""
    return np.clip(np.rint(pixels - difference), 0, 255).astype(np.uint8)


def without_tile(pixels: Pixels, tile: int) -> Pixels:
    """Returns an image after the mean fine structure of all its tiles has been subtracted from each tile."""
    rows, columns = pixels.shape[0] // tile, pixels.shape[1] // tile
    whole = fine(pixels)[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, -1).mean((0, 2))
    repeats = (math.ceil(pixels.shape[0] / tile), math.ceil(pixels.shape[1] / tile), 1)
    return without(pixels, np.tile(whole, repeats)[: pixels.shape[0], : pixels.shape[1]].reshape(pixels.shape))


def key_of(number: int) -> WatermarkKey:
    """Returns a different key for every number."""
    return derive_key(number.to_bytes(32, "big"), tenant="benchmark", modality="image", epoch=0)


def marked_picture(case: Case) -> tuple[Pixels, Pixels]:
    """Returns the image of a case, and a copy with our mark."""
    original = picture(case)
    return original, ImageMarker(key_of(case.key)).mark(original, case.id, random=np.random.default_rng(case.origin))


def measure_ours(case: Case) -> Record:
    """Measures how our mark changes one image, and whether the id can be read after each attack."""
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
    """Measures a peer's mark in the same image, with the same squared error and after the same attacks as our mark."""
    peer = PEERS[name]
    original, ours = (coloured(pixels) for pixels in marked_picture(case))
    bits = np.random.default_rng(case.bits).integers(0, 2, peer.num_bits).astype(np.uint8)
    embedded = embed_like(peer, original, bits, squared_error(original, ours))
    exact = {}
    for attack_name, attack in attacks(case).items():
        image = attack(Image.fromarray(embedded.pixels))
        if attack_name in RESIZED:  # peers do not detect the scale, so it is restored
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
    """Counts false alarms in an unmarked procedural picture, and in a marked copy that is searched with other keys."""
    first = NULL_NUMBER + number * (num_keys + 1)
    original, random = procedural(NULL_NUMBER + number), np.random.default_rng(number)
    marked = ImageMarker(key_of(first)).mark(
        original, int(random.integers(1 << ID_BITS)), random=np.random.default_rng(first)
    )
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
    """Measures, for each tile size, whether an id is still read after an averaging attack on a single marked image.

    The attack subtracts the tiles' mean fine structure from each tile. For the largest tiles, a larger image is used.
    """
    case = whole_cases(number + 1)[-1]
    marked = marked_picture(case)[1]
    exact = {}
    for tile in TILES:
        if tile >= SIDE:  # the ordinary image has only one tile, so its mean would be the image itself
            original = procedural(TILE_NUMBER + number, 2 * tile)
            marked = ImageMarker(key_of(case.key)).mark(original, case.id, random=np.random.default_rng(case.origin))
        exact[str(tile)] = ImageDetector(key_of(case.key)).detect(without_tile(marked, tile)).id == case.id
    return {"exact": exact}


def measure_many(num_images: int) -> Record:
    """Determines for which of many images the id is still read after an averaging attack on all of them.

    All images are marked with the same key and id. The attack subtracts their mean fine structure from each image.
    """
    cases, key = whole_cases(num_images), key_of(MANY_NUMBER)
    marker, detector, message = ImageMarker(key), ImageDetector(key), cases[0].id
    marked = [
        marker.mark(coloured(picture(case)), message, random=np.random.default_rng(case.origin)) for case in cases
    ]
    common = np.mean([fine(one) for one in marked], 0)
    return {"exact": [detector.detect(without(one, common)).id == message for one in marked]}


def measure(kind: str, number: int, run: Run) -> Record:
    """Measures our mark or a peer's mark in one case, false alarms in one picture, or one averaging attack."""
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
    """Returns our median times to mark an image and to detect its mark, on one core.

    Also returns the ratios of blind-watermark's median times to ours, and the 95th percentile of the time in which our
    detector searches an unmarked image."""
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
