"""Compares this commit with an earlier one, and variants of this commit: correctness and speed on this processor.

The benchmark has five parts: the whole demo at both commits; training steps with each precision; two training runs that
are submitted together or one after the other; int8 model files with and without AVX-512; and sampling a marked token
with and without AVX-512. Each round measures all variants. Most figures are ratios of times from the same round; their
median and range over all rounds are reported. `--quick` omits the demos and the training runs, which take minutes, and
certifies nothing.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import watermark_text
from benchmarks.precision_times import auto_round, networks
from benchmarks.report import ROOT, Record, Rounds, certify, print_figures, progress_file, provenance
from deepseek import embedded
from deepseek.client import Mesh, MeshFile, connect
from deepseek.demo import easy_vqa
from deepseek.processor import haswell
from tests.services.inference import quantized

BEFORE = "81dc3668e4e8627a63a61c2f7683f9562f3acbce"
"""A commit from before the precision `auto` measured which precision is fastest. Its demo trains for 10 epochs instead
of 7, so the time per epoch is compared too."""
NUM_ROUNDS = 3
MAX_DIFFERING = 0.01
"""Share of an int8 model file's outputs that may differ from those of the float32 file, in addition to the share that
quantization is expected to change. If the integers of a file saturate, a third of the outputs differ."""


@contextmanager
def earlier_code() -> Iterator[Path]:
    """Yields a temporary folder that contains the files of the commit `BEFORE`."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def demo(code: Path) -> dict[str, Any]:
    """Runs the demo of a checkout from scratch, and returns the demo's report."""
    with tempfile.TemporaryDirectory(prefix="demo-") as home:
        environment = {**os.environ, "DEEPSEEK_HOME": f"{home}/home", "PYTHONPATH": str(code)}
        command = [sys.executable, "-m", "deepseek.cli", "demo", "--fresh", "--free-ports", "--json"]
        done = subprocess.run(command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report


def epochs_of(code: Path) -> int:
    """Returns the number of epochs for which the demo of a checkout trains."""
    spec = json.loads((code / "deepseek" / "demo" / "spec.json").read_text(encoding="utf-8"))
    return int(spec["epochs"])


def demo_round() -> dict[str, Any]:
    """Runs the demos of both commits. Returns the ratios of their times (now to before) and other measurements."""
    with earlier_code() as code:
        before, epochs_before = demo(code), epochs_of(code)
    now, epochs = demo(ROOT), epochs_of(ROOT)
    kept = ("test_accuracy", "served_equals_offline", "precision", "precision_ratios", "int8_speedup")
    return {
        "train_ratio": now["train_s"] / before["train_s"],
        "demo_ratio": now["total_s"] / before["total_s"],
        "epoch_ratio": now["train_s"] / epochs / (before["train_s"] / epochs_before),
        "epochs": epochs,
        "before_epochs": epochs_before,
        "before_train_s": before["train_s"],
        "before_total_s": before["total_s"],
        "now_train_s": now["train_s"],
        "now_total_s": now["total_s"],
        **{key: now[key] for key in (*kept, "int8_loss_points", "int8_loss_points_avx2")},
    }


@contextmanager
def running_mesh() -> Iterator[Mesh]:
    """Runs a mesh in a temporary home directory, and yields a client of it."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as home:
        mesh = embedded.start_mesh(Path(home), stay=False, free_ports=True)
        try:
            with connect(Path(home) / MeshFile.default_path().name) as client:
                yield client
        finally:
            mesh.stop()


def upload(mesh: Mesh) -> str:
    """Uploads an eighth of the demo's samples, and returns the name of the new data set version."""
    samples = [sample for i, sample in enumerate(easy_vqa.samples()) if i % 8 == 0]
    return mesh.datasets.upload("easy-vqa-eighth", easy_vqa.fields(), samples).name


def runs_round(mesh: Mesh, dataset: str, number: int) -> dict[str, Any]:
    """Returns the time of two training runs submitted together, the time of two in succession, and their ratio."""
    spec = json.loads((ROOT / "deepseek" / "demo" / "spec.json").read_text(encoding="utf-8"))
    spec |= {"dataset_version": dataset, "epochs": 12, "num_workers": 1}
    seeds = iter(range(4 * number, 4 * number + 4))

    def submit() -> str:
        return mesh.runs.submit({**spec, "seed": next(seeds)}, reuse=False)[0].name

    start = time.perf_counter()
    for name in [submit(), submit()]:
        mesh.runs.wait(name)
    together_s = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(2):
        mesh.runs.wait(submit())
    sequential_s = time.perf_counter() - start
    return {"ratio": together_s / sequential_s, "together_s": together_s, "sequential_s": sequential_s}


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the medians and ranges over the rounds. Values of parts that were not measured are None."""

    def of(part: str) -> list[Record]:
        return [record for record in records if record["part"] == part]

    def figure(name: str, part: str, key: str) -> dict[str, Any]:
        values = [record[key] for record in of(part) if record[key] is not None]
        spread = [min(values), max(values)] if values else None
        return {name: median(values) if values else None, f"{name}_interval": spread}

    autos, demos = of("auto"), of("demo")
    by_network = {name: median(record[name] for record in autos) for name in networks()} if autos else {}
    result = {
        **figure("train_ratio_to_before", "demo", "train_ratio"),
        **figure("demo_ratio_to_before", "demo", "demo_ratio"),
        **figure("epoch_ratio_to_before", "demo", "epoch_ratio"),
        "auto_vs_best": max(by_network.values(), default=None),
        "auto_vs_best_by_network": by_network,
        **figure("two_runs_vs_sequential", "runs", "ratio"),
        **figure("marked_token_ms", "token", "ms"),
        **figure("marked_token_no_avx512_ms", "token", "ms_no_avx512"),
        **figure("int8_loss_points_native", "demo", "int8_loss_points"),
        **figure("int8_loss_points_avx2", "demo", "int8_loss_points_avx2"),
        **figure("int8_speedup", "demo", "int8_speedup"),
        "wrong_files_served": sum(record["wrong_files_served"] for record in of("int8")),
        "files_loaded": sum(record["files_loaded"] for record in of("int8")),
    }
    if demos:
        result |= {
            "train_s": median(record["now_train_s"] for record in demos),
            "total_s": median(record["now_total_s"] for record in demos),
            "train_s_before": median(record["before_train_s"] for record in demos),
            "total_s_before": median(record["before_total_s"] for record in demos),
            "epochs": demos[0]["epochs"],
            "epochs_before": demos[0]["before_epochs"],
            "test_accuracy": min(record["test_accuracy"] for record in demos),
            "served_equals_offline": all(record["served_equals_offline"] for record in demos),
        }
    return result


def int8_round(num_loads: int) -> dict[str, Any]:
    """Loads versions whose int8 file can saturate, and counts the loads after which wrong outputs are served.

    Each version is loaded on this processor and, if possible, as if the processor had AVX2 and nothing newer."""
    commands: dict[str, Sequence[str]] = {"native": ()}
    if command := haswell():
        commands["avx2"] = command
    loads = []
    # Versions exported with the options of earlier releases: one without probes, as in those releases, one with probes.
    versions = [
        (*version, quantized.probes_of(version[1]["model.onnx"]))
        for version in (quantized.old_version(), quantized.new_version(quantized.OLD))
    ]
    manifest, contents = quantized.exported_before()
    versions.append((manifest, contents, quantized.answered(contents["model.onnx"], quantized.questions())))
    for manifest, contents, truth in versions:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in contents.items():
                Path(folder, name).write_bytes(data)
            Path(folder, "manifest.json").write_bytes(manifest.to_bytes())
            Path(folder, "truth.npz").write_bytes(truth.to_bytes())
            program = [sys.executable, "-m", "tests.services.inference.loads", folder, str(num_loads)]
            for command in commands.values():
                done = subprocess.run([*command, *program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                loads += json.loads(done.stdout)
    wrong = sum(load.get("differing", 0.0) > load.get("expected", 0.0) + MAX_DIFFERING for load in loads)
    return {"wrong_files_served": wrong, "files_loaded": len(loads), "kinds": list(commands)}


def token_round(num_tokens: int) -> dict[str, Any]:
    """Returns the time in ms to draw a marked token on one core (vocabulary: 50,000), with and without AVX-512."""
    times = watermark_text.speed(num_tokens) | watermark_text.speed_without_avx512(num_tokens)
    return {"ms": times["ms_per_token"], "ms_no_avx512": times["ms_per_token_no_avx512"]}


def main() -> None:
    """Measures missing parts, prints the results, and certifies them if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="one short round, no demos or runs; certify nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that meshes are stopped and folders removed
    where = provenance()
    file = progress_file("processors", where, "quick" if quick else "full")
    if quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    num_rounds = 1 if quick else NUM_ROUNDS
    for number in range(num_rounds):
        Console(stderr=True).print(f"round {number + 1} of {num_rounds}")
        rounds.measure("auto", number, lambda: auto_round(1 if quick else 5))
        rounds.measure("token", number, lambda: token_round(50 if quick else 500))
        rounds.measure("int8", number, lambda: int8_round(1 if quick else 5))
        if not quick:
            rounds.measure("demo", number, demo_round)
    if not quick:
        with running_mesh() as mesh:
            dataset = upload(mesh)
            for number in range(num_rounds):
                rounds.measure("runs", number, lambda number=number: runs_round(mesh, dataset, number))
    result = {"n": num_rounds, "quick": quick, **summary(rounds.records), **where}
    print_figures(result, spread="range")
    file.unlink()
    certify("processors", result, full=not quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
