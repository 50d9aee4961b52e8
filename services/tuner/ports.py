"""What the tuner needs from the trainer, in domain terms."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from common.errors import UNANSWERED, MeshError
from deepseek.trainjob.runspec import RunSpec


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a run on its evaluation split.

    Attributes:
        epoch: Number of completed epochs.
        metrics: Metrics by name.
    """

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        state: Final state of its job; None while it has none.
        metrics: Metrics of the best epoch; empty unless the run has succeeded.
        reason: Machine-readable reason of a failure.
        message: Message of a failure, for people.
    """

    state: Literal["SUCCEEDED", "FAILED", "CANCELLED"] | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Restore:
    """Continue with the weights of a checkpoint of another run."""

    run: str
    step: int


@dataclass(frozen=True)
class SetValue:
    """Set `learning_rate` or `momentum`."""

    kind: str
    value: float


Action = Restore | SetValue


class Evaluations(Protocol):
    """The evaluations of a run."""

    def __iter__(self) -> Iterator[tuple[int, Evaluation | None]]:
        """Yields the sequence number of each event of the run, and its evaluation, if it is one.

        Raises:
            MeshError: The trainer ended the stream, or is unavailable.
        """

    def cancel(self) -> None:
        """Ends the iteration, from any thread."""


def is_busy(error: MeshError) -> bool:
    """Returns whether a call to the trainer should be repeated later: it was not answered, or there was no room."""
    return isinstance(error, UNANSWERED) or error.retry_delay_s is not None


class Trainer(Protocol):
    """The part of the trainer that the tuner uses: runs of a tenant. Thread-safe.

    All methods raise an error for which `is_busy` is true while the trainer does not respond, or has no room. They may
    then be called again, because all of them are idempotent.
    """

    def check(self, tenant: str, spec: RunSpec, *, path: str) -> RunSpec:
        """Checks a spec without starting a run, and returns it with aliases resolved.

        Args:
            tenant: Tenant that would own the run.
            spec: The spec.
            path: Path of the spec in the caller's request, for errors.

        Raises:
            MeshError: An error that SubmitRun documents.
        """

    def submit(self, tenant: str, spec: RunSpec, *, request_id: str) -> str:
        """Starts a run, and returns its name. A repetition with the same id returns the same run.

        Raises:
            MeshError: An error that SubmitRun documents.
        """

    def label(self, tenant: str, run: str, *, name: str, tags: Mapping[str, str]) -> None:
        """Sets the display name of a run, and adds tags.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """

    def stop(self, tenant: str, run: str) -> None:
        """Asks a run to stop.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """

    def checkpoint(self, tenant: str, run: str, *, directive_id: str) -> int:
        """Saves a checkpoint of a run that trains, and returns the step of the run's last checkpoint.

        If the run has ended, nothing is saved.

        Raises:
            NotFound: RUN_NOT_FOUND; CHECKPOINT_NOT_FOUND if the run has ended without a checkpoint.
        """

    def steer(self, tenant: str, run: str, actions: Mapping[str, Action]) -> int:
        """Changes a run that trains, and returns the first step with all changes. Waits until they are applied.

        Args:
            tenant: Tenant that owns the run.
            run: Name of the run.
            actions: What to change, by the id of the directive. A directive takes effect once.

        Raises:
            MeshError: The error of the first directive that was refused or has failed. The others take effect.
        """

    def find_end(self, tenant: str, run: str) -> Finished:
        """Returns how a run ended.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """

    def evaluations(self, tenant: str, run: str, *, after: int, wait: bool) -> Evaluations:
        """Returns the evaluations of a run.

        Args:
            tenant: Tenant that owns the run.
            run: Name of the run.
            after: Sequence number; only events with a greater one are yielded.
            wait: Whether to wait for further events until the run has ended.
        """
