"""Job files of private runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek.data.sample import Sample
from tests.deepseek.trainjob.jobs import write_job
from tests.deepseek.trainjob.small_tasks import TASKS

PRIVACY = {"noise_multiplier": 0.5, "clip_norm": 1.0, "example_rate": 0.2, "budget": "budgets/b"}


def private(
    folder: Path,
    task: str = "cnn",
    *,
    name: str = "job",
    options: Any = None,
    change: Callable[[Sample], Sample] = lambda sample: sample,
    **changes: Any,
) -> Path:
    """Writes the job file of a private run of a small task, whose samples `change` may alter; returns its path."""
    kind = TASKS[task]

    def make(num_samples: int, split: str, seed: int) -> list[Sample]:
        return [change(sample) for sample in kind.make(num_samples, split, seed)]

    model = {"name": task, "params": {**kind.spec["model"]["params"], **changes.pop("params", {"norm": "group"})}}
    spec = {**kind.spec, "model": model, "epochs": 2, "checkpoint_interval_s": 1000, "privacy": PRIVACY, **changes}
    return write_job(folder, name=name, spec=spec, fields=kind.fields, make=make, **options or {})
