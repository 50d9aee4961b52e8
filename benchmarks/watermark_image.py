"""Marks in images beside the strongest published ones: in the same images, with the same error, after the same attacks.

The cases are frozen (`watermark_cases`): which part of which picture, key, id, and what attacks do. Parts of a picture
are not independent, so beside the Clopper-Pearson bound there is a bootstrap over pictures. An attack is behind a peer
if a one-sided exact McNemar test says so at 95 %.

False alarms are counted in procedural pictures, which are independent: each without a mark, and marked, with keys that
are all others. Averaging is what can be done without a key: the mean of an image's tiles, or of what is fine in many
images with one key and id, is taken away again. Speed is measured first, alone and with one thread.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.report import ROOT, Record, certify, measure_all, progress_file, provenance
from benchmarks.statistics import interval, is_below, lower_bound, source_interval, uniformity, upper_bound
from benchmarks.watermark_cases import (
    NUM_CASES,
    RESIZED,
    SIDE,
    SOURCES,
    Case,
    attacks,
    coloured,
    photograph,
    picture,
    procedural,
    read_cases,
    whole_cases,
    write_cases,
)
from benchmarks.watermark_peers import PEERS, embed_like, rounded
from common.errors import FailedPrecondition
from deepseek.watermark.arrays import Real
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.detector import ImageDetector
from deepseek.watermark.image.marker import ImageMarker, Pixels, quality, squared_error
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.verdict import Verdict

KINDS = ("ours", *PEERS, "null", "tiles", "many")
TIMED_PEER = "blind-watermark"
TILES = (64, 128, 256, 512)
FINE_RADIUS = 8
NUM_KEPT_P = 2
"""p-values of wrong keys that are kept of each picture."""

# Numbers of keys and procedural pictures; cases have the keys and pictures from 0.
NULL_NUMBER, TILE_NUMBER, MANY_NUMBER = 1_000_000, 2_000_000, 3_000_000


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
    return original, ImageMarker(key_of(case.key)).mark(original, case.id, random=np.random.default_rng(case.origin))


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
    """One marked image without its mean tile, for every size of tiles; for the largest a larger image."""
    case = whole_cases(number + 1)[-1]
    marked = marked_picture(case)[1]
    exact = {}
    for tile in TILES:
        if tile >= SIDE:  # a single tile has no mean
            original = procedural(TILE_NUMBER + number, 2 * tile)
            marked = ImageMarker(key_of(case.key)).mark(original, case.id, random=np.random.default_rng(case.origin))
        exact[str(tile)] = ImageDetector(key_of(case.key)).detect(without_tile(marked, tile)).id == case.id
    return {"exact": exact}


def measure_many(num_images: int) -> Record:
    """Many images with one key and id, without what is fine in all of them."""
    cases, key = whole_cases(num_images), key_of(MANY_NUMBER)
    marker, detector, message = ImageMarker(key), ImageDetector(key), cases[0].id
    marked = [
        marker.mark(coloured(picture(case)), message, random=np.random.default_rng(case.origin)) for case in cases
    ]
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


def summary_of_ours(ours: Sequence[Record]) -> dict[str, Any]:
    """The figures of our marks: how much they change, and how often they are read after every attack."""
    hits = {name: [one["exact"][name] for one in ours] for name in ours[0]["exact"]}
    exact = {name: float(np.mean(some)) for name, some in hits.items()}
    worst = min(exact, key=lambda name: exact[name])
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
        "wrong_ids": sum(one["wrong_ids"] for one in ours),
    }


def summary_of_nulls(nulls: Sequence[Record]) -> dict[str, Any]:
    """How often images were taken for marked by keys that marked none of them, and whether p-values are uniform."""
    false_alarms = sum(one["false_alarms"] for one in nulls)
    num_pairs = sum(one["num_keys"] + 1 for one in nulls)
    return {
        "fpr_images": len(nulls),
        "fpr_keys": num_pairs,
        "fpr_pairs": num_pairs,
        "false_alarms": false_alarms,
        "fpr_upper": upper_bound(false_alarms, num_pairs),
        "ks_null": uniformity([one["p"] for one in nulls]),
        "ks_wrong_key": uniformity([p for one in nulls for p in one["p_wrong_key"]]),
    }


def summary_of_averaging(tiles: Sequence[Record], many: Sequence[Record]) -> dict[str, Any]:
    """How often our marks are read after what is common to tiles, or to many images, was taken away."""
    exact = {str(tile): float(np.mean([one["exact"][str(tile)] for one in tiles])) for tile in TILES}
    return {
        "tile_averaging": exact,
        "tile_averaging_exact": min(exact.values()),
        "many_averaging_exact": float(np.mean([hit for one in many for hit in one["exact"]])),
    }


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The figures that records give."""
    ordered = sorted(records, key=lambda record: record["number"])
    by_kind = {kind: [one for one in ordered if one["kind"] == kind] for kind in KINDS}
    ours = by_kind["ours"]
    peers = {name: _peer_summary(name, by_kind[name], ours) for name in PEERS if by_kind[name]}
    return {
        **summary_of_ours(ours),
        **summary_of_nulls(by_kind["null"]),
        **summary_of_averaging(by_kind["tiles"], by_kind["many"]),
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
        low, high = np.array([interval(round(rate * count), count) for rate in rates]).T
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        errors = np.maximum([rates - low, high - rates], 0)
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
    """Everything that is to be measured; at the end what is short and many, so that no process is left alone."""
    peers = {name: run.peers[name] for name in reversed(PEERS) if PEERS[name].version is not None}
    counts = {"ours": run.cases, "many": 1, **peers, "tiles": run.tiles, "null": run.nulls}
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def task_of(record: Record) -> tuple[str, int]:
    """Which task a record is of."""
    return record["kind"], record["number"]


def make_pool(num_processes: int | None) -> futures.ProcessPoolExecutor:
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
    with make_pool(1) as pool:
        times = pool.submit(speed, run).result()
    with make_pool(os.cpu_count()) as pool:
        records = list(measure_all(pool, partial(measure, run=run), tasks(run), case_of=task_of, cache=cache))
    result = {**summary(records), **times, **start}
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
