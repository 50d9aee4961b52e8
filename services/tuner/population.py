"""Population-based training of the runs of a study: decides, stores the decision, and steers the run.

A decision is made in the thread of the job, in the order in which epochs are measured. It is stored before the run gets
its directives, which happens in a thread per decision, because a run may have to start first. After a crash, decisions
that have not ended are sent again, under the same directive ids.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

from common.database import MAX_PAGE_SIZE, PageRequest
from common.errors import MeshError
from deepseek.search.population import PopulationSettings
from deepseek.search.space import FloatRange, IntegerRange
from deepseek.search.trials import Exploit, Trial
from services.tuner.ports import Action, Restore, SetValue, Trainer, is_busy
from services.tuner.resources import trial_name
from services.tuner.run_trials import current_trials, set_exploit
from services.tuner.studies import StudyService
from services.tuner.study import StudyView

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0
_MAX_MESSAGE = 1000
_MAX_STREAMS = 4
"""Number of runs that are steered at the same time: a trainer has few streams."""


class Population:
    """The members of a population. Not thread-safe, except for what its own threads do.

    Args:
        tenant: Tenant that owns the study.
        study: A study that is run, with the algorithm `pbt`.
        settings: Settings of the algorithm.
        studies: Service that stores the decisions.
        trainer: Trainer that executes the runs.
    """

    def __init__(
        self,
        tenant: str,
        study: StudyView,
        settings: PopulationSettings,
        studies: StudyService,
        trainer: Trainer,
    ) -> None:
        assert study.run is not None, "RunStudy has stored it with the job"
        self._tenant = tenant
        self._study = study
        self._name = f"studies/{study.study_id}"
        self._settings = settings
        self._studies = studies
        self._trainer = trainer
        self._kinds = study.run.spec.steered(study.spec)
        self._domains = {
            one.name: one.domain
            for one in study.spec.space.parameters
            if isinstance(one.domain, FloatRange | IntegerRange)
        }
        self._maximize = bool(study.spec.objectives[0].maximize)
        self._values: dict[int, dict[int, float]] = {}
        self._closed = threading.Event()
        self._turns = threading.BoundedSemaphore(_MAX_STREAMS)

    def close(self) -> None:
        """Ends the threads. Decisions that have not ended are sent again when the job continues."""
        self._closed.set()

    def recover(self, trials: Sequence[Trial]) -> None:
        """Continues where an earlier attempt of the job has ended."""
        for trial in trials:
            if trial.run and trial.last_step:
                self._values[trial.number] = self._measured(trial)
            if not trial.state.ended and trial.exploits and not trial.exploits[-1].has_ended:
                self._start(trial, trials[trial.exploits[-1].source - 1].run, trial.exploits[-1])

    def _measured(self, trial: Trial) -> dict[int, float]:
        """Returns the values of the objective of a trial by epoch, as `measured` got them."""
        metric, name = self._study.spec.objectives[0].metric, trial_name(self._study.study_id, trial.number)
        values: dict[int, float] = {}
        token = ""
        while True:
            view, token = self._studies.trial(self._tenant, name, PageRequest(MAX_PAGE_SIZE, token))
            values |= {one.step: one.metrics.get(metric, math.nan) for one in view.measurements}
            if not token:
                return values

    def measured(self, number: int, epoch: int, value: float, num_epochs: int) -> None:
        """Decides whether a member copies another one, after an epoch.

        Args:
            number: Number of the member's trial.
            epoch: The epoch.
            value: Value of the objective.
            num_epochs: Number of epochs of the run.
        """
        self._values.setdefault(number, {})[epoch] = value
        if not self._settings.is_due(epoch, num_epochs):
            return
        _, trials = current_trials(self._studies.live, self._tenant, self._name)
        trial = trials[number - 1]
        if trial.exploits and not trial.exploits[-1].has_ended:
            return  # the weights of the last decision are still on their way
        seed = self._study.spec.seed
        source = self._settings.choose_source(seed, number, epoch, self._scores(epoch, trials))
        if source is None:
            return
        new = self._settings.perturbed(seed, number, epoch, self._parameters(trials[source - 1]), self._domains)
        exploit = Exploit(epoch, source, self._parameters(trial), new)
        exploit = set_exploit(self._studies.live, self._tenant, trial_name(self._study.study_id, number), exploit)
        self._start(trial, trials[exploit.source - 1].run, exploit)

    def _scores(self, epoch: int, trials: Sequence[Trial]) -> dict[int, float]:
        """Returns the values of all members at an epoch, or at their last epoch before; greater is better.

        A run that ended before the epoch is no member any more. Otherwise, it would be the worst one for ever, and no
        other run would copy a better one.
        """
        scores = {}
        for number, values in self._values.items():
            if trials[number - 1].state.ended and max(values) < epoch:
                continue
            if known := [one for one in values if one <= epoch]:
                value = values[max(known)]
                scores[number] = value if self._maximize else -value
        return scores

    def _parameters(self, trial: Trial) -> dict[str, float]:
        """Returns the present values of the parameters of a member."""
        values = {name: float(trial.parameters[name]) for name in self._kinds}
        for exploit in trial.exploits:
            if exploit.applied_step:
                values |= exploit.new
        return values

    def _start(self, trial: Trial, source_run: str, exploit: Exploit) -> None:
        thread = threading.Thread(
            target=self._apply, args=(trial, source_run, exploit), name=f"exploit-{trial.number}", daemon=True
        )
        thread.start()

    def _apply(self, trial: Trial, source_run: str, exploit: Exploit) -> None:
        """Steers the run of a member, in a thread of its own."""
        name, delay_s = trial_name(self._study.study_id, trial.number), _FIRST_DELAY_S
        while not self._closed.is_set() and not exploit.has_ended:
            try:
                # The step is stored first: the directives must be the same when they are sent again.
                step = self._with_step if not exploit.source_step else self._applied
                with self._turns:
                    following = step(trial, source_run, exploit)
                exploit = set_exploit(self._studies.live, self._tenant, name, following)
            except MeshError as error:
                if not is_busy(error):  # the study was deleted
                    return
                self._closed.wait(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    def _with_step(self, trial: Trial, source_run: str, exploit: Exploit) -> Exploit:
        """Saves a checkpoint of the run that is copied, and returns the decision with its step."""
        directive_id = f"pbt-{self._study.uid}-{trial.number}-{exploit.epoch}"
        try:
            step = self._trainer.checkpoint(self._tenant, source_run, directive_id=directive_id)
        except MeshError as error:
            if is_busy(error):
                raise
            return _failed(exploit, error)
        return replace(exploit, source_step=step)

    def _applied(self, trial: Trial, source_run: str, exploit: Exploit) -> Exploit:
        """Gives a run the weights of another one and new values, and returns the decision with its outcome."""
        actions: dict[str, Action] = {f"pbt-{exploit.epoch}-restore": Restore(source_run, exploit.source_step)}
        for parameter, kind in self._kinds.items():
            actions[f"pbt-{exploit.epoch}-{kind}"] = SetValue(kind, exploit.new[parameter])
        try:
            return replace(exploit, applied_step=self._trainer.steer(self._tenant, trial.run, actions))
        except MeshError as error:
            if is_busy(error):
                raise
            self._undo(trial, exploit)
            return _failed(exploit, error)

    def _undo(self, trial: Trial, exploit: Exploit) -> None:
        """Sets the values of a run back: a trainer that refuses the weights sets the new values nevertheless."""
        actions = {
            f"pbt-{exploit.epoch}-{kind}-undo": SetValue(kind, exploit.old[parameter])
            for parameter, kind in self._kinds.items()
        }
        try:
            self._trainer.steer(self._tenant, trial.run, actions)
        except MeshError as error:
            if is_busy(error):
                raise
            # Otherwise, the run has ended.


def _failed(exploit: Exploit, error: MeshError) -> Exploit:
    return replace(exploit, failure_reason=error.reason, failure_message=error.message[:_MAX_MESSAGE])
