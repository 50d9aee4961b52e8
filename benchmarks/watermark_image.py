"""Compares our image marks with the strongest published ones: same images, same squared error, same attacks.

The cases are frozen (`watermark_cases`). Several cases use parts of the same picture and are not independent, so a
bootstrap over pictures is reported beside the Clopper-Pearson bound. Our mark counts as behind a peer after an attack
if our mark is read significantly less often than the peer's (one-sided exact McNemar test, 95 %). False alarms are
counted in independent procedural pictures, unmarked or marked with other keys. The averaging attacks need no key: one
subtracts the mean of an image's tiles from each tile, the other the mean of many images from each image. Speed is
measured first, while nothing else runs, with one thread.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import ROOT, Record, certify, measure_all, progress_file, provenance
from benchmarks.statistics import interval, is_below, lower_bound, source_interval, uniformity, upper_bound
from benchmarks.watermark_cases import (
    SOURCES,
    Case,
    photograph,
    read_cases,
    write_cases,
)
from benchmarks.watermark_image_measures import FULL, QUICK, TILES, Run, marked_picture, measure, speed
from benchmarks.watermark_peers import PEERS
from common.errors import FailedPrecondition
from deepseek.watermark.image.quality import quality

KINDS = ("ours", *PEERS, "null", "tiles", "many")


def summary_of_ours(ours: Sequence[Record]) -> dict[str, Any]:
    """Returns the results of our marks: the quality of marked images, and the share of ids read after each attack."""
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
    """Returns the rate of false alarms for keys that did not mark the images, and how uniform the p-values are."""
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
    """Returns the share of our ids that are read after each of the two averaging attacks (tiles, many images)."""
    exact = {str(tile): float(np.mean([one["exact"][str(tile)] for one in tiles])) for tile in TILES}
    return {
        "tile_averaging": exact,
        "tile_averaging_exact": min(exact.values()),
        "many_averaging_exact": float(np.mean([hit for one in many for hit in one["exact"]])),
    }


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns summary statistics of the records of all tasks."""
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
    """Returns a peer's results, and the attacks after which its mark is read significantly more often than ours."""
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
    """Draws the share of marks read after each attack, and one image with its marked copy and the difference."""
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
    """Returns the kind and number of every task. Short tasks come last, so that all processes finish together."""
    peers = {name: run.peers[name] for name in reversed(PEERS) if PEERS[name].version is not None}
    counts = {"ours": run.cases, "many": 1, **peers, "tiles": run.tiles, "null": run.nulls}
    return [(kind, number) for kind, count in counts.items() for number in range(count)]


def task_of(record: Record) -> tuple[str, int]:
    """Returns the task of a record."""
    return record["kind"], record["number"]


def make_pool(num_processes: int | None) -> futures.ProcessPoolExecutor:
    """Returns a pool of single-threaded processes.

    The processes are spawned, not forked, because libraries read the number of threads at import.
    """
    os.environ.update({"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"})
    return futures.ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))


def main() -> None:
    """Runs the benchmark, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark_image", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="run for about a minute; certify nothing")
    parser.add_argument("--make-cases", action="store_true", help="freeze the cases, unless they are frozen already")
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
