"""What the job that runs a study does with its trials, besides what a worker does."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deepseek.search.trials import Exploit, Trial
from services.tuner.live import Change, LiveStudies
from services.tuner.resources import parse_study, parse_trial

if TYPE_CHECKING:
    from deepseek.search.study import Study


def set_run(live: LiveStudies, tenant: str, name: str, run: str) -> None:
    """Notes which run evaluates a trial. Idempotent.

    Raises:
        NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
    """
    _change(live, tenant, name, lambda trial: replace(trial, run=run))


def set_exploit(live: LiveStudies, tenant: str, name: str, exploit: Exploit) -> Exploit:
    """Stores a step of population-based training, and returns the one that is stored. Idempotent.

    A tuner that has lost the job, but does not know it yet, changes nothing that its successor has stored.

    Raises:
        NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
    """

    def change(trial: Trial) -> Trial:
        stored = trial.exploit(exploit.epoch)
        return trial.with_exploit(exploit) if stored is None or exploit.continues(stored) else trial

    stored = _change(live, tenant, name, change).exploit(exploit.epoch)
    assert stored is not None, "it was stored now, if not before"
    return stored


def current_trials(live: LiveStudies, tenant: str, name: str) -> tuple[bool, Sequence[Trial]]:
    """Returns whether a study is stopped, and all of its trials by number.

    Raises:
        NotFound: STUDY_NOT_FOUND.
    """

    def act(study: "Study") -> tuple[tuple[bool, Sequence[Trial]], Change]:
        return (study.stopped, list(study.trials.values())), Change()

    return live.change(tenant, parse_study(name), act)


def _change(live: LiveStudies, tenant: str, name: str, change: Callable[[Trial], Trial]) -> Trial:
    study_id, number = parse_trial(name)

    def act(study: "Study") -> tuple[Trial, Change]:
        trial = study.change(number, change)
        return study.trials[number], Change((trial,) if trial else (), only_trials=True)

    return live.change(tenant, study_id, act)
