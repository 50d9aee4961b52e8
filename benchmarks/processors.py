"""Correctness and speed on this processor: compares this commit with an earlier one, and alternatives within it.

- The whole demo from scratch, of this commit and of the last one before formats were measured (`BEFORE`). It trains for
  7 epochs instead of 10, so the time of an epoch is compared too.
- Training steps of three networks in `auto` and in each fixed precision.
- Two runs submitted to a mesh together, and two one after the other.
- An int8 file of the demo's network on this processor and on one without AVX-512; loading files that saturate.
- Drawing one marked token, with numpy's AVX-512 code and without.

Alternatives are measured alternately. Every figure is a ratio within a round, reported as the median of the rounds with
their range. `--quick` omits the demos and the runs, which take minutes, and certifies nothing.
"""

import argparse
import io
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import watermark_text
from benchmarks.report import ROOT, Record, certify, progress_file, provenance, read_progress
from deepseek import embedded
from deepseek.client import Mesh, MeshFile, connect
from deepseek.demo import easy_vqa
from deepseek.models import resnet50
from deepseek.models.image_question_net import image_question
from deepseek.processor import haswell
from deepseek.training import MixedPrecisionTrainer
from deepseek.training.precision import SlowPrecisionWarning
from deepseek.training.step_times import DTYPES
from tests.services.inference import quantised

BEFORE = "81dc3668e4e8627a63a61c2f7683f9562f3acbce"
NUM_ROUNDS = 3
MAX_DIFFERING = 0.01
"""Share of answers that may differ from the float32 file's beyond those that quantising changes; a file that saturates
differs in a third of them."""
HOPELESS = 3.0
"""A format that is this many times slower than the best in a single step is not timed further."""


class Rounds:
    """The measurements of each round, kept in a file so that an interrupted benchmark continues.

    Args:
        file: Records, one per line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.records = read_progress(file)

    def measure(self, part: str, number: int, work: Callable[[], Mapping[str, Any]]) -> Record:
        """Returns the record of a part in a round; measures it if there is none."""
        for record in self.records:
            if (record["part"], record["round"]) == (part, number):
                return record
        record = {"part": part, "round": number, **work()}
        self.records.append(record)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), file=sys.stderr, flush=True)
        return record


@contextmanager
def earlier_code() -> Iterator[Path]:
    """The repository at `BEFORE`, in its own folder."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def demo(code: Path) -> dict[str, Any]:
    """Runs the demo of a checkout from scratch, and returns its report."""
    with tempfile.TemporaryDirectory(prefix="demo-") as home:
        environment = {**os.environ, "DEEPSEEK_HOME": f"{home}/home", "PYTHONPATH": str(code)}
        command = [sys.executable, "-m", "deepseek.cli", "demo", "--fresh", "--free-ports", "--json"]
        done = subprocess.run(command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report


def epochs_of(code: Path) -> int:
    """How many epochs the demo of a checkout trains for."""
    spec = json.loads((code / "deepseek" / "demo" / "spec.json").read_text(encoding="utf-8"))
    return int(spec["epochs"])


def demo_round() -> dict[str, Any]:
    """Both demos, and the ratios of their times."""
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


class Encoder(nn.Module):
    """A transformer encoder: two layers of 256 features, four heads, a mean and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 512, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, L, 256] -> [B, 10]."""
        logits: Tensor = self.head(self.layers(x).mean(1))
        return logits


class Repeated:
    """A data set that repeats one sample.

    Args:
        sample: The sample.
        num_samples: Number of repetitions.
    """

    def __init__(self, sample: Mapping[str, Any], num_samples: int) -> None:
        self._sample = sample
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._sample

    def shortened(self, num_samples: int) -> "Repeated":
        """Returns a data set with fewer repetitions."""
        return Repeated(self._sample, num_samples)


def networks() -> dict[str, tuple[Callable[[], nn.Module], Repeated, int]]:
    """For each network its constructor, the data of one measurement, and the batch size."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    questions = {"image": pixels, "question": torch.randint(0, 64, (10, 16)), "target": torch.zeros(10).long()}
    return {
        "resnet50": (resnet50, Repeated({"image": pixels, "target": 0}, 4), 2),
        "demo": (lambda: image_question(64, 13, 24, 128), Repeated(questions, 256), 32),
        "encoder": (Encoder, Repeated({"x": torch.randn(64, 256), "target": 0}, 32), 8),
    }


def epoch_s(trainer: MixedPrecisionTrainer, dataset: Repeated, batch_size: int) -> float:
    """Trains for one more epoch, and returns its seconds."""
    start = time.perf_counter()
    trainer.fit(dataset, epochs=trainer.step * batch_size // len(dataset) + 1, batch_size=batch_size)
    return time.perf_counter() - start


def auto_round(num_rounds: int) -> dict[str, Any]:
    """Time of `auto` relative to the best fixed precision, for each network."""
    found: dict[str, Any] = {}
    for name, (make, dataset, batch_size) in networks().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPrecisionWarning)
            trainers = {p: MixedPrecisionTrainer(make(), precision=p, device="cpu") for p in ("auto", *DTYPES)}
            of_one_step = {p: MixedPrecisionTrainer(make(), precision=p, device="cpu") for p in DTYPES}
        step = dataset.shortened(batch_size)
        for trainer in of_one_step.values():  # the first step warms up
            epoch_s(trainer, step, batch_size)
        step_s = {p: epoch_s(trainer, step, batch_size) for p, trainer in of_one_step.items()}
        for precision in DTYPES:
            if step_s[precision] > HOPELESS * min(step_s.values()):
                del trainers[precision]
        best_s = dict.fromkeys(trainers, math.inf)
        for _ in range(num_rounds):
            for precision, trainer in trainers.items():
                best_s[precision] = min(best_s[precision], epoch_s(trainer, dataset, batch_size))
        fixed = {p: best_s[p] for p in DTYPES if p in best_s}
        found[name] = best_s["auto"] / min(fixed.values())
        found[f"{name}_best"] = min(fixed, key=fixed.__getitem__)
        found[f"{name}_auto"] = trainers["auto"].precision
    return found


@contextmanager
def running_mesh() -> Iterator[Mesh]:
    """A mesh in its own home, with a small data set."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as home:
        mesh = embedded.start_mesh(Path(home), stay=False, free_ports=True)
        try:
            with connect(Path(home) / MeshFile.default_path().name) as client:
                yield client
        finally:
            mesh.stop()


def upload(mesh: Mesh) -> str:
    """Uploads an eighth of the demo's images, and returns the name of the version."""
    samples = [sample for i, sample in enumerate(easy_vqa.samples()) if i % 8 == 0]
    return mesh.datasets.upload("easy-vqa-eighth", easy_vqa.fields(), samples).name


def runs_round(mesh: Mesh, dataset: str, number: int) -> dict[str, Any]:
    """Time of two runs submitted together relative to two runs one after the other."""
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
    """Medians over the rounds, and their ranges; null for parts that were not measured."""

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
    """Loads versions with a file that saturates, here and on a processor with AVX2 only, and counts wrong answers."""
    commands: dict[str, Sequence[str]] = {"native": ()}
    if command := haswell():
        commands["avx2"] = command
    loads = []
    # With the exporter's options from before this version; once without probes, as it exported them, and once with.
    versions = [
        (*version, quantised.probes_of(version[1]["model.onnx"]))
        for version in (quantised.old_version(), quantised.new_version(quantised.OLD))
    ]
    manifest, contents = quantised.exported_before()
    versions.append((manifest, contents, quantised.answered(contents["model.onnx"], quantised.questions())))
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
    """Milliseconds to draw a marked token of 50,000 words on one core, with numpy's AVX-512 code and without."""
    times = watermark_text.speed(num_tokens) | watermark_text.speed_without_avx512(num_tokens)
    return {"ms": times["ms_per_token"], "ms_no_avx512": times["ms_per_token_no_avx512"]}


def print_table(result: Mapping[str, Any]) -> None:
    """Prints the figures to standard error, one per line."""
    table = Table("figure", "value", "range", box=None, header_style="bold")
    for name, value in result.items():
        if isinstance(value, float):
            spread = result.get(f"{name}_interval")
            table.add_row(name, f"{value:.3f}", "{:.3f} to {:.3f}".format(*spread) if spread else "")
    Console(stderr=True).print(table)


def main() -> None:
    """Measures missing parts, prints a table and a JSON line, and certifies a full measurement of a clean tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="omit demos and runs, one short round; certifies nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that meshes and folders are cleaned up
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
    print_table(result)
    file.unlink()
    certify("processors", result, full=not quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
