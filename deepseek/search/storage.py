"""Optuna's storage in memory, for one study, from which a suggestion can be taken back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState


class RevocableStorage(InMemoryStorage):
    """Storage of one study. The id of a trial is its number."""

    def add(
        self,
        study_id: int,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
        measured: Mapping[int, float],
    ) -> None:
        """Starts a trial with given parameters; faster than `create_new_trial`, which copies the distributions.

        Args:
            study_id: Id of the study.
            params: Values by name.
            distributions: Distributions of these parameters; they are not copied, and never change.
            attributes: Initial attributes.
            measured: Values of the objective by step.
        """
        with self._lock:
            trials = self._studies[study_id].trials
            number = len(trials)
            trial = FrozenTrial(
                number,
                TrialState.RUNNING,
                None,
                datetime.now(),
                None,
                dict(params),
                dict(distributions),
                {},
                dict(attributes),
                dict(measured),
                number,
            )
            trials.append(trial)
            self._trial_id_to_study_id_and_number[number] = (study_id, number)
            self._max_trial_id = number

    def measure(self, trial_id: int, values: Mapping[int, float]) -> None:
        """Adds values of the objective by step; faster than `set_trial_intermediate_value`, which copies all others."""
        with self._lock:
            self._get_trial(trial_id).intermediate_values.update(values)

    def discard_last(self, trial_id: int) -> None:
        """Removes the trial that was created last, as if it had never been suggested."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.pop(trial_id)
            trials = self._studies[study_id].trials
            assert number == len(trials) - 1, "only the last trial can be discarded"
            trials.pop()
            self._max_trial_id -= 1
