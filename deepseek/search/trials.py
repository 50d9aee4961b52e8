"""The trials of a study, as they are stored."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deepseek.search.space import Value

MAX_SUGGESTIONS = 100
"""Maximum number of active trials that a worker may ask for."""


class TrialState(enum.StrEnum):
    """State of a trial. The proto enum `deepseek.tuner.v1.TrialState` documents the states."""

    ACTIVE = "active"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self not in (TrialState.ACTIVE, TrialState.STOPPING)


@dataclass(frozen=True)
class Exploit:
    """A step of population-based training. The proto message `deepseek.tuner.v1.Exploit` documents the attributes.

    Attributes:
        source: Number of the trial whose weights are copied.
        old: Values of the parameters before, by name.
        new: Values afterwards.
    """

    epoch: int
    source: int
    old: Mapping[str, float]
    new: Mapping[str, float]
    source_step: int = 0
    applied_step: int = 0
    failure_reason: str = ""
    failure_message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it was applied, or has failed."""
        return bool(self.applied_step or self.failure_reason)

    def continues(self, earlier: "Exploit") -> bool:
        """Returns whether this is a later state of a step that has not ended."""
        is_same = (self.epoch, self.source, self.new) == (earlier.epoch, earlier.source, earlier.new)
        return is_same and not earlier.has_ended and earlier.source_step in (0, self.source_step)


@dataclass(frozen=True)
class Trial:
    """A trial. The proto message `deepseek.tuner.v1.Trial` documents most of the attributes.

    Attributes:
        number: Number in the study, starting at 1.
        start_sequence: Sequence number of the study after the trial was suggested.
        end_sequence: The same after the trial ended; 0 while it is active.
        sequence: The same after the last change.
        last_step: Greatest step that was measured; None if nothing was measured.
        last_metrics: Metrics of this step.
        attributes: What the algorithm and the pruner have stored with the trial; JSON values.
        run: `runs/<id>` of the training run that evaluates the trial; empty without one.
        exploits: Steps of population-based training, by epoch.
    """

    number: int
    parameters: Mapping[str, Value]
    client_id: str
    start_us: int
    start_sequence: int
    sequence: int
    state: TrialState = TrialState.ACTIVE
    metrics: Mapping[str, float] = field(default_factory=dict)
    feasible: bool | None = None
    failure_reason: str = ""
    failure_message: str = ""
    last_step: int | None = None
    last_metrics: Mapping[str, float] = field(default_factory=dict)
    end_us: int | None = None
    end_sequence: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    exploits: tuple[Exploit, ...] = ()

    def exploit(self, epoch: int) -> Exploit | None:
        """Returns the step of population-based training at an epoch, or None."""
        return next((one for one in self.exploits if one.epoch == epoch), None)

    def with_exploit(self, exploit: Exploit) -> "Trial":
        """Returns the trial with a step of population-based training, in place of an earlier one at its epoch."""
        others = [one for one in self.exploits if one.epoch != exploit.epoch]
        return replace(self, exploits=tuple(sorted([*others, exploit], key=lambda one: one.epoch)))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, as its worker reports it: with metrics, with a failure, or early.

    Attributes:
        state: SUCCEEDED, FAILED or STOPPED.
        metrics: Final metrics, if the trial succeeded.
        reason: Machine-readable reason of a failure.
        message: Message of a failure.
    """

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


EXHAUSTED = "mesh:exhausted"
"""Attribute of a study whose algorithm has nothing left to suggest. Attributes of Optuna have other prefixes."""


def is_exhausted(attributes: Mapping[str, Any]) -> bool:
    """Returns whether the algorithm of a study had nothing left to suggest, according to the study's attributes."""
    return bool(attributes.get(EXHAUSTED, False))
