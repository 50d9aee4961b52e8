"""Events that the training loop reports; their attributes match the fields of the messages in `deepseek.trainer.v1`.

Events are plain data with a JSON form (`to_json`), so the same event can be written to a file, shown by a progress bar
or checked in a test. Only rank 0 reports events.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class StepEvent:
    """Progress of training, reported at most twice per second, and at the end of each epoch.

    Attributes:
        step: Number of steps completed, including skipped steps.
        num_steps: Total number of steps in the run.
        epoch: Number of the current epoch, from 1.
        metrics: Mean loss and metrics of the training steps since the previous step event, over all ranks.
        samples_per_second: Training throughput since the previous step event, over all ranks.
        eta_s: Estimated time until the run's final step is complete, in seconds.
        learning_rate: Learning rate of the first parameter group in the most recent step.
        num_skipped_steps: Number of steps skipped so far because a gradient was not finite.
        gradient_norm: Global norm of the gradients of the most recent step, before clipping.
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
    gradient_norm: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class EvaluationEvent:
    """The result of an evaluation of the model.

    Attributes:
        step: Number of steps completed.
        epoch: Number of epochs completed.
        metrics: Loss and metrics over all samples of the evaluation data.
        is_best: Whether no earlier evaluation of the run was as good.
        ends_run: Whether training ends early after this evaluation.
    """

    kind: ClassVar[str] = "evaluation"
    step: int
    epoch: int
    metrics: Mapping[str, float]
    is_best: bool = False
    ends_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class CheckpointEvent:
    """Reports that a checkpoint has been stored durably.

    Attributes:
        step: Number of steps completed at the checkpoint.
        artifact: Return value of the `checkpoint` function that was passed to `fit`, e.g. a description of the stored
            file in JSON form.
        best_weights: Return value of the function `keep_best`, if the best epoch has changed since the previous
            checkpoint; otherwise None.
    """

    kind: ClassVar[str] = "checkpoint"
    step: int
    artifact: Any
    best_weights: Any = None

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, "step": self.step, "artifact": self.artifact, "best_weights": self.best_weights}


@dataclass(frozen=True)
class WarningEvent:
    """A warning for the owner of the run. The run continues.

    Attributes:
        message: Text of the warning.
    """

    kind: ClassVar[str] = "warning"
    message: str

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class PrecisionEvent:
    """The numeric format of the forward and backward pass, reported at the start of every call to `fit`.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: `requested`, `fastest`, `device` or `kept` (`deepseek.training.precision.Reason`).
        ratios: Measured duration of a training step in each format, relative to the fastest format (1 for the fastest);
            empty on CUDA.
        instruction_set: Instruction set of rank 0's processor.
    """

    kind: ClassVar[str] = "precision"
    precision: str
    reason: str
    ratios: Mapping[str, float]
    instruction_set: str

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Values:
    """The values that can be steered.

    Attributes:
        learning_rate: Learning rate of the first parameter group.
        momentum: Momentum, or the first of Adam's betas; None if the optimizer has neither.
    """

    learning_rate: float
    momentum: float | None


@dataclass(frozen=True)
class AdjustmentEvent:
    """Reports that a policy has changed the learning rate or the momentum.

    Attributes:
        step: First step with the new values, counted from 1.
        policy: Name of the policy.
        old: Values of the step before.
        new: Values from this step on.
    """

    kind: ClassVar[str] = "adjustment"
    step: int
    policy: str
    old: Values
    new: Values

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class DirectiveEvent:
    """The answer to a directive (`deepseek.steering.directive`).

    Attributes:
        directive_id: Id of the directive.
        action: What it does, e.g. `set_learning_rate`.
        applied_step: Step in which it was applied, counted from 1; 0 if it was not.
        late: Whether it was applied after the step that it names.
        apply_us: Time at which it was applied or refused, UTC microseconds.
        old: Values that the step would have used without it; None if it was not applied.
        new: Values that the step uses; None if it was not applied.
        error: Why it was not applied: `code`, `reason`, `message` and `field`; None if it was.
    """

    kind: ClassVar[str] = "directive"
    directive_id: str
    action: str
    applied_step: int
    late: bool
    apply_us: int
    old: Values | None
    new: Values | None
    error: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the event's attributes and its kind as a JSON object."""
        return {"kind": self.kind, **asdict(self)}


Event = PrecisionEvent | StepEvent | EvaluationEvent | CheckpointEvent | WarningEvent | AdjustmentEvent | DirectiveEvent
