"""What a study has spent on the trainer, and which limit of its budget it has reached."""

import time

from deepseek.search.study_run import StudyBudget

HARD_LIMITS = ("MAX_EPOCHS", "MAX_SECONDS")
"""Limits at which active runs are stopped. At the others, they continue to their end."""


class Spending:
    """What a study has spent. Seconds are counted by the monotonic clock, so a clock that jumps changes nothing.

    Args:
        budget: What the study may spend.
        seconds: Seconds that earlier attempts and jobs have executed.

    Attributes:
        num_trials: Number of trials that have, or will have, a run.
        num_epochs: Number of epochs that these runs have completed.
    """

    def __init__(self, budget: StudyBudget, seconds: float) -> None:
        self._budget = budget
        self._earlier_s = seconds
        self._began_s = time.monotonic()
        self.num_trials = 0
        self.num_epochs = 0

    @property
    def seconds(self) -> float:
        """Seconds that the jobs of the study have executed."""
        return self._earlier_s + time.monotonic() - self._began_s

    def limit(self) -> str:
        """Returns the limit that is reached: MAX_EPOCHS, MAX_SECONDS or MAX_TRIALS; empty if none is."""
        budget = self._budget
        if budget.max_epochs and self.num_epochs >= budget.max_epochs:
            return "MAX_EPOCHS"
        if budget.max_seconds and self.seconds >= budget.max_seconds:
            return "MAX_SECONDS"
        if budget.max_trials and self.num_trials >= budget.max_trials:
            return "MAX_TRIALS"
        return ""

    def progress(self, num_ended: int, max_trials: int) -> float:
        """Returns how much of the budget is spent, from 0 to 1, judged by the limit that is closest.

        Args:
            num_ended: Number of trials that have ended.
            max_trials: Number of trials that the study may have.
        """
        shares = [num_ended / min(self._budget.max_trials or max_trials, max_trials)]
        if self._budget.max_epochs:
            shares.append(self.num_epochs / self._budget.max_epochs)
        if self._budget.max_seconds:
            shares.append(self.seconds / self._budget.max_seconds)
        return min(1.0, max(shares))
