"""How long directives take to reach a run on an embedded mesh, and how late the machine wakes processes meanwhile."""

import bisect
import io
import math
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.privacy_images import mnist
from benchmarks.steering_noise import measured_noise
from common.errors import Cancelled
from deepseek import embedded
from deepseek.client import Mesh
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.trainjob.inbox import FILE

FIELDS = (Field("image", "image"), Field("digit", "label", labels=tuple("0123456789")))
BATCH, NUM_WARM, MAX_PAUSE_S = 16, 3, 0.05


def latencies(num_directives: int, seed: int, max_s: float) -> dict[str, Any]:
    """Sends directives that change nothing to a run, each after a random pause, for at most `max_s` seconds.

    A directive waits for the step that is under way. The duration of this step is the mean of the steps at that time,
    over at least half a second, because a step takes longer while other programs use the processor. If there are such
    programs, single steps differ much; the time until the directive is in the worker's file depends less on them.

    Returns:
        For each directive, the milliseconds from before it is sent until it is in the worker's file, and until it is
        applied, and the duration of a step at that time; and the 99th percentile of the machine's own delays
        (`benchmarks.steering_noise`) in milliseconds.
    """
    with tempfile.TemporaryDirectory(prefix="steering-") as home:
        mesh = embedded.start_mesh(Path(home), stay=False, free_ports=True)
        try:
            with Mesh(mesh.file) as client:
                return _steer_run(client, Path(home), num_directives, random.Random(seed), max_s)
        finally:
            mesh.stop()


def _steer_run(client: Mesh, home: Path, num_directives: int, chance: random.Random, max_s: float) -> dict[str, Any]:
    spec = {
        "dataset_version": client.datasets.upload("digits", FIELDS, _samples()).name,
        "model": {"name": "cnn", "params": {"width": 4}},
        "inputs": [{"field": "image", "encoder": {"name": "image", "params": {"size": 16}}}],
        "target": {"field": "digit"},
        "epochs": 100_000,
        "batch_size": BATCH,
        "eval_split": "none",  # an evaluation or a checkpoint would take longer than a step
        "checkpoint_interval_s": 1e6,
        "precision": "PRECISION_FP32",
    }
    run = client.runs.submit(spec, reuse=False)[0].name
    found: list[tuple[int, float, float]] = []
    num_seen = 0
    try:
        for event in client.runs.watch(run):
            num_seen += event.HasField("step")
            if num_seen == NUM_WARM:
                break
        with client.runs.steer(run) as steering, measured_noise() as noise:
            steering.apply()  # opens the stream
            (file,) = home.glob(f"**/{FILE}")
            deadline = time.monotonic() + max_s
            while len(found) < num_directives and not (found and time.monotonic() > deadline):
                time.sleep(chance.uniform(0.0, MAX_PAUSE_S))
                sent_s = time.time()
                ack = steering.apply()
                duration = ack.apply_time.seconds + 1e-9 * ack.apply_time.nanos - sent_s
                found.append((ack.applied_step, 1e3 * (file.stat().st_mtime - sent_s), 1e3 * duration))
    finally:
        client.runs.stop(run)
    with suppress(Cancelled):
        client.runs.wait(run)  # the last step is reported when the run ends
    events = [event.step for event in client.runs.history(run) if event.HasField("step")]
    ends, durations = [event.step for event in events], [1e3 * BATCH / event.samples_per_second for event in events]
    return {
        "delivered_ms": [round(delivered, 3) for _, delivered, _ in found],
        "latencies_ms": [round(latency, 3) for _, _, latency in found],
        "steps_ms": [round(durations[min(bisect.bisect_left(ends, step), len(ends) - 1)], 3) for step, _, _ in found],
        "noise_p99_ms": sorted(noise)[math.ceil(0.99 * len(noise)) - 1],
    }


def _samples() -> list[Sample]:
    images, labels = mnist("t10k")
    found = []
    for i, (image, label) in enumerate(zip(images[:512], labels[:512], strict=True)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        found.append(Sample(f"{i:04d}", "train", {"image": file.getvalue(), "digit": str(label)}))
    return found
