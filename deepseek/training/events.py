"""What a training loop reports while it runs; the attributes are those of the messages in `deepseek.trainer.v1`.

Plain data that is JSON after `to_json`, so it goes through a file, a progress bar or a test alike. Reported on rank 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class StepEvent:
    """Training has moved on; sent about twice a second and at the end of each epoch.

    Attributes:
        step: Steps done, skipped ones included.
        num_steps: Steps of the whole run.
        epoch: Epochs begun, from 1.
        metrics: Mean loss and training metrics over all ranks since the last event.
        samples_per_second: Over all ranks, since the last event.
        eta_s: Seconds until the last step, estimated.
        learning_rate: Of the last step; the first parameter group's.
        num_skipped_steps: Steps skipped so far because a gradient was not finite.
    """

    kind: ClassVar[str] = "step"
    step: int
    num_steps: int
    epoch: int
    metrics: Mapping[str, float]
    samples_per_second: float
    eta_s: float
    learning_rate: float
    num_skipped_steps: int

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes, and the kind of event."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class EvaluationEvent:
    """The evaluation data was passed.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        metrics: Loss and metrics over all samples.
    """

    kind: ClassVar[str] = "evaluation"
    step: int
    epoch: int
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes, and the kind of event."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class CheckpointEvent:
    """A checkpoint is durable.

    Attributes:
        step: Steps it holds.
        artifact: What the `checkpoint` callback returned, JSON values.
    """

    kind: ClassVar[str] = "checkpoint"
    step: int
    artifact: Any

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes, and the kind of event."""
        return {"kind": self.kind, "step": self.step, "artifact": self.artifact}


@dataclass(frozen=True)
class WarningEvent:
    """Something that the run's owner should know and that does not end the run.

    Attributes:
        message: Text for people.
    """

    kind: ClassVar[str] = "warning"
    message: str

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes, and the kind of event."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class PrecisionEvent:
    """The numeric format of the forward and backward pass; the first event of every attempt.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: `requested`, `fastest`, `device` or `kept` (`deepseek.training.precision.Reason`).
        ratios: Measured time of a training step in each format relative to the fastest; empty on CUDA.
        instruction_set: Instruction set of rank 0's processor.
    """

    kind: ClassVar[str] = "precision"
    precision: str
    reason: str
    ratios: Mapping[str, float]
    instruction_set: str

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes, and the kind of event."""
        return {"kind": self.kind, **asdict(self)}


Event = PrecisionEvent | StepEvent | EvaluationEvent | CheckpointEvent | WarningEvent
