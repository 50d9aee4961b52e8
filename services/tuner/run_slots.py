"""The state of an attempt to run a study: its active trials, the reason for a pause, and its end."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UNANSWERED, FailedPrecondition, MeshError
from deepseek.search.trials import Trial, TrialState
from deepseek.trainjob.runspec import RunSpec
from services.tuner.codec import MAX_MESSAGE

MAX_FAILURES = 5
"""Number of trials whose runs fail one after the other at which the job gives up."""
CLIENT_PREFIX = "trainer/"
"""Prefix of the client ids under which the job suggests trials to itself; the number of a slot follows."""
_CLIENT_ID = re.compile(rf"{CLIENT_PREFIX}(\d{{1,2}})")
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0

REASONS = {
    "MAX_TRIALS": "max_trials is reached",
    "MAX_EPOCHS": "max_epochs is reached",
    "MAX_SECONDS": "max_seconds is reached",
    "STUDY_COMPLETE": "the study has all its trials",
    "SPACE_EXHAUSTED": "every combination of values was tried",
    "STUDY_STOPPED": "the study was stopped",
}
"""Why a job has ended, for people, by the machine-readable reason."""


@dataclass(frozen=True)
class End:
    """Why an execution ended. Without an error, the job has succeeded, or was stopped."""

    reason: str
    message: str
    seconds: float
    error: MeshError | None = None


@dataclass
class Slot:
    """An active trial and its run.

    Attributes:
        index: Number of the slot.
        trial: Name of the trial.
        number: Number of the trial.
        spec: Spec of the run.
        run: Name of the run; empty until it was submitted.
        epoch: Last epoch that was measured.
        is_new: Whether the run has certainly not been submitted.
        should_stop: Whether the run must be stopped.
        was_stopped: Whether the trainer was asked to stop it.
        has_ended: Whether the run has sent its last event.
    """

    index: int
    trial: str
    number: int
    spec: RunSpec
    run: str = ""
    epoch: int = 0
    is_new: bool = True
    should_stop: bool = False
    was_stopped: bool = False
    has_ended: bool = False


def slot_index(trial: Trial) -> int | None:
    """Returns the number of the slot to which a trial was suggested; None for a trial of another worker."""
    found = _CLIENT_ID.fullmatch(trial.client_id)
    return int(found[1]) if found else None


def is_run(trial: Trial) -> bool:
    """Returns whether a trial has, or will have, a run."""
    return bool(trial.run) or slot_index(trial) is not None


def too_many_failures(trials: Sequence[Trial], *, since: int, is_end: bool = False) -> FailedPrecondition | None:
    """Returns the error TRIALS_FAIL if the last runs of a study failed, other than by diverging, and None otherwise.

    Args:
        trials: All trials of the study.
        since: Sequence number after which a failure counts.
        is_end: Whether there will be no other runs. Then one run is enough, if all have failed.
    """
    ended = sorted(
        (one for one in trials if is_run(one) and one.end_sequence > since), key=lambda one: one.end_sequence
    )
    last = ended if is_end else ended[-MAX_FAILURES:]
    if len(last) < (1 if is_end else MAX_FAILURES):
        return None
    if any(one.state != TrialState.FAILED or one.failure_reason == "NOT_FINITE" for one in last):
        return None
    which = "all trials" if is_end else f"{MAX_FAILURES} trials in a row"
    text = f"the runs of {which} failed; the last one: {last[-1].failure_reason}: {last[-1].failure_message}"
    return FailedPrecondition("TRIALS_FAIL", text[:MAX_MESSAGE])


class TrainerBusy(Exception):
    """The trainer does not respond, or has no room for another run.

    Attributes:
        was_answered: Whether the trainer has refused the call, and so has changed nothing.
    """

    def __init__(self, error: MeshError) -> None:
        super().__init__(error.message)
        self.was_answered = not isinstance(error, UNANSWERED)


class Pause:
    """A pause in calls to the trainer that were refused. It becomes longer with every refusal.

    Attributes:
        reason: Why there is a pause; empty if there is none.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._delay_s = _FIRST_DELAY_S
        self._end_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether calls may be repeated."""
        return time.monotonic() >= self._end_s

    def extend(self, reason: str) -> None:
        """Begins a pause, after a call was refused again."""
        self.reason, self._end_s = reason, time.monotonic() + self._delay_s
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)

    def clear(self) -> None:
        """Notes that calls succeed again."""
        self.reason, self._delay_s = "", _FIRST_DELAY_S
