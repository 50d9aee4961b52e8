"""Trainings that get directives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deepseek.steering.directive import Directive
from deepseek.training import DirectiveEvent, FitResult, MixedPrecisionTrainer
from deepseek.training.events import Event
from tests.deepseek.training.tasks import Classifier, Points, weights

STEPS = 4  # per epoch

Given = Mapping[int, Sequence[Directive]]
"""The directives that arrive before a step, by the number of steps that are complete."""


class Run:
    """A training that gets directives.

    Args:
        given: The directives.
        folder: For its checkpoints; None for none.
    """

    def __init__(self, given: Given, *, folder: Path | None = None, epochs: int = 4, **options: Any) -> None:
        options = {"optimizer": "adamw", "lr": 0.01, "precision": "fp32", **options}
        self.trainer = MixedPrecisionTrainer(Classifier(dropout=0.2), **options)
        self.given = dict(given)
        self.events: list[Event] = []
        self.saved: dict[int, Path] = {}
        self._folder = folder
        self._epochs = epochs

    def fit(self, **options: Any) -> FitResult:
        if self._folder:
            options = {"checkpoint": self._save, "checkpoint_interval_s": 1e6, "fetch": self._fetch, **options}
        return self.trainer.fit(
            Points(40),
            epochs=self._epochs,
            batch_size=10,
            evaluation=Points(20),
            on_event=self.events.append,
            directives=lambda: self.given.pop(self.trainer.step, ()),
            **options,
        )

    @property
    def acks(self) -> dict[str, DirectiveEvent]:
        return {event.directive_id: event for event in self.events if isinstance(event, DirectiveEvent)}

    @property
    def weights(self) -> torch.Tensor:
        return weights(self.trainer.model)

    def _save(self, data: bytes) -> str:
        assert self._folder
        path = self._folder / f"step-{self.trainer.step}"
        path.write_bytes(data)
        self.saved[self.trainer.step] = path
        return path.name

    def _fetch(self, value: Mapping[str, Any]) -> Path:
        assert self._folder
        copy = self._folder / "copy"
        copy.write_bytes((self._folder / f"step-{value['step']}").read_bytes())
        return copy


def done(given: Given, **options: Any) -> Run:
    run = Run(given, **options)
    run.fit()
    return run


def rate(value: float, id: str = "d", **options: Any) -> Directive:
    return Directive(id, "set_learning_rate", value, **options)


def policy(name: str, id: str = "p", /, **params: Any) -> Directive:
    return Directive(id, "set_policy", {"name": name, "params": params})
