"""What steering costs a training: its duration without any of the code, with all of it idle, and with a policy.

All three train the same network with the same evaluations and checkpoints. Without steering, its hooks in the training
loop are replaced by methods that do nothing. Beside that, the time within the hooks is measured, whose share varies
far less than the duration of a training.
"""

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.steering_tasks import Images, Network
from common.artifacts import open_store
from deepseek.steering.policy import DEFAULT
from deepseek.training import MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from deepseek.training.directives import Directives
from deepseek.training.events import Event
from deepseek.training.rescue import Rescue
from deepseek.training.steering import Steering
from deepseek.trainjob.inbox import Inbox
from deepseek.trainjob.jobfile import report

FORMS = ("without", "idle", "policy")
HOOKS: Mapping[type, Sequence[str]] = {
    Steering: ("news", "add", "keep_sums", "continue_at", "begin_epoch", "before_step"),
    Directives: ("begin", "poll", "take", "before_step", "after_step", "news"),
    Rescue: ("before_step", "keep", "after_step"),
}
"""The methods through which the training loop steers."""
NUM_TRAIN, NUM_VALIDATION, NUM_HIDDEN, BATCH = 8_000, 1_000, 256, 128


class NoSteering(Steering):
    """Steering whose hooks in the loop do nothing."""

    def news(self) -> list[Event]:
        return []

    def add(self, sums: Tensor) -> None:
        pass

    def keep_sums(self) -> None:
        pass

    def continue_at(self, epoch: int, num_epochs: int) -> None:
        pass

    def begin_epoch(self, epoch: int, num_epochs: int, validation: Mapping[str, float]) -> None:
        pass

    def before_step(self) -> None:
        pass


class NoDirectives(Directives):
    """Directives whose hooks in the loop do nothing."""

    saves = stops = False

    def begin(self) -> None:
        pass

    def poll(self) -> bool:
        return False

    def before_step(self) -> None:
        pass

    def after_step(self, saved: Event | None) -> None:
        pass

    def news(self) -> list[Event]:
        return []


class NoRescue(Rescue):
    """A rescue whose hooks in the loop do nothing."""

    def before_step(self) -> None:
        pass

    def keep(self, data: bytes) -> None:
        pass

    def after_step(self, sums: Tensor) -> bool:
        return False


def overhead(number: int, epochs: int) -> dict[str, float]:
    """Returns the seconds of a training in each form, on the clock and of the processor, and the share of the hooks.

    Args:
        number: Number of the round, which determines the order of the forms.
        epochs: Number of epochs; the network, the data and their order are the same in all rounds.
    """
    found = {"hooks_percent": hooks_percent(epochs)}
    for form in random.Random(number).sample(FORMS, len(FORMS)):
        found[f"{form}_s"], found[f"{form}_cpu_s"] = _seconds(form, epochs)
    return found


def hooks_percent(epochs: int) -> float:
    """Returns the time within the hooks in a training with a policy, in percent of the rest of the time.

    Reading the clock takes time, too, so the result is an upper bound.
    """
    spent_ns = 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal spent_ns
            began_ns = time.perf_counter_ns()
            try:
                return method(*given, **named)
            finally:
                spent_ns += time.perf_counter_ns() - began_ns

        return call

    with ExitStack() as changed:
        for kind, names in HOOKS.items():
            for name in names:
                changed.enter_context(mock.patch.object(kind, name, timed(getattr(kind, name))))
        began_ns = time.perf_counter_ns()
        _seconds("policy", epochs)
        return 100 * spent_ns / (time.perf_counter_ns() - began_ns - spent_ns)


def _seconds(form: str, epochs: int) -> tuple[float, float]:
    torch.manual_seed(0)
    trainer = MixedPrecisionTrainer(
        Network(NUM_HIDDEN), "sgd", "fp32", lr=0.01, policy=DEFAULT if form == "policy" else None, metrics=["accuracy"]
    )
    train, validation = Images("train", slice(NUM_TRAIN)), Images("train", slice(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION))
    with tempfile.TemporaryDirectory(prefix="steering-") as temporary, ExitStack() as changed:
        folder = Path(temporary)
        store = open_store(f"file://{folder / 'store'}")
        receive: Any = tuple
        if form == "without":
            trainer._steering = NoSteering(trainer._step, trainer._ranks, trainer.steering.open_policy)
            parts = {"Directives": NoDirectives, "Rescue": NoRescue}
            changed.enter_context(mock.patch.multiple("deepseek.training.loop", **parts))
        else:
            receive = Inbox(folder)
        began, began_cpu = time.perf_counter(), time.process_time()
        trainer.fit(
            train,
            epochs=epochs,
            batch_size=BATCH,
            evaluation=validation,
            on_event=lambda event: report(folder, **event.to_json()),
            checkpoint=lambda data: store.put("default", data, checkpoints.MEDIA_TYPE).to_json(),
            checkpoint_interval_s=0.5,
            directives=receive,
        )
        return time.perf_counter() - began, time.process_time() - began_cpu


def ratios(rounds: Sequence[Mapping[str, float]], form: str, clock: str = "") -> list[float]:
    """Returns by how many percent a form takes longer than the training without steering, in each round.

    >>> [round(one, 6) for one in ratios([{"without_s": 2.0, "idle_s": 2.02}], "idle")]
    [1.0]
    """
    return [100 * (one[f"{form}{clock}_s"] / one[f"without{clock}_s"] - 1) for one in rounds]
