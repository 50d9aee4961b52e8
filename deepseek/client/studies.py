"""Client of a mesh's studies, which search for good values of parameters, and of their trials.

A study is named `<id>` or `studies/<id>`, and a trial `<study>/<number>`; resource names are accepted, too.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format

from common.errors import InvalidArgument
from deepseek.client.connection import Connection
from deepseek.client.names import study_name, trial_name
from deepseek.client.pages import pages
from deepseek.client.resume import PATIENCE_S, resumed
from deepseek.client.runs import parse_spec
from deepseek.search.study_spec import StudySpec
from protos.trainer.v1 import trainer_pb2
from protos.tuner.v1 import tuner_pb2, tuner_pb2_grpc

SUGGEST_S = 300.0
"""Deadline of calls that make suggestions, in seconds: an algorithm may need long, and a study may have to be rebuilt
from the database first."""


def parse_study_spec(spec: Mapping[str, Any] | StudySpec, *, path: str = "spec") -> tuner_pb2.StudySpec:
    """Converts plain data, such as the parsed content of a JSON or TOML file, to the spec of a study.

    Args:
        spec: The data.
        path: Path of the spec, for errors.

    Raises:
        InvalidArgument: UNKNOWN_FIELD or BAD_VALUE, with the path of the invalid field.
    """
    read = spec if isinstance(spec, StudySpec) else StudySpec.from_json(spec, path=path)
    try:
        return json_format.ParseDict(read.to_json(), tuner_pb2.StudySpec())
    except json_format.ParseError as error:
        raise InvalidArgument("BAD_VALUE", f"the spec cannot be sent: {error}", field=path) from error


class Studies:
    """Client of a mesh's studies, available as `Mesh.studies`."""

    def __init__(self, connection: Connection) -> None:
        self._stub = tuner_pb2_grpc.TunerServiceStub(connection.channel("tuner"))

    def create(
        self, study: str, spec: Mapping[str, Any] | StudySpec | tuner_pb2.StudySpec, *, request_id: str = ""
    ) -> tuner_pb2.Study:
        """Creates a study.

        Args:
            study: Name of the new study.
            spec: Spec, with the field names of `deepseek.tuner.v1.StudySpec`.
            request_id: Id under which the call may be repeated; a new one by default.

        Raises:
            MeshError: Any error that `TunerService.CreateStudy` documents.
        """
        message = spec if isinstance(spec, tuner_pb2.StudySpec) else parse_study_spec(spec)
        request = tuner_pb2.CreateStudyRequest(
            study_id=study_name(study, field="study").removeprefix("studies/"),
            spec=message,
            request_id=request_id or uuid.uuid4().hex,
        )
        created: tuner_pb2.Study = self._stub.CreateStudy(request, timeout=SUGGEST_S).study
        return created

    def get(self, study: str) -> tuner_pb2.Study:
        """Returns a study."""
        request = tuner_pb2.GetStudyRequest(name=study_name(study, field="study"))
        found: tuner_pb2.Study = self._stub.GetStudy(request).study
        return found

    def list(self) -> Iterator[tuner_pb2.Study]:
        """Yields every study, newest first."""
        for page in pages(self._stub.ListStudies, tuner_pb2.ListStudiesRequest()):
            yield from page.studies

    def stop(self, study: str) -> tuner_pb2.Study:
        """Stops a study: there are no new trials, and workers are asked to end theirs."""
        request = tuner_pb2.StopStudyRequest(name=study_name(study, field="study"))
        stopped: tuner_pb2.Study = self._stub.StopStudy(request, timeout=SUGGEST_S).study
        return stopped

    def run(
        self,
        study: str,
        run: Mapping[str, Any] | trainer_pb2.RunSpec,
        *,
        fields: Mapping[str, str] = MappingProxyType({}),
        metric: str = "",
        max_parallel: int = 0,
        max_trials: int = 0,
        max_epochs: int = 0,
        max_seconds: float = 0.0,
    ) -> tuner_pb2.Study:
        """Runs a study on the trainer: every trial becomes a training run. At least one limit is required.

        May be called again: with the same arguments, it changes nothing; after the end, with greater limits, it
        continues the study. `follow` and `get` show how far it is, and `stop` ends it.

        Args:
            study: Name of the study.
            run: Spec of the runs, with the field names of `RunSpec`. The parameters of a trial replace fields of it.
            fields: Path of the field that each parameter sets, e.g. `optimizer.params.lr`, by name of the parameter;
                by default, the name of the parameter is the path.
            metric: Metric of the runs that is the value of the first objective; by default, the one with its name.
            max_parallel: Number of runs that are submitted at the same time; default 1.
            max_trials: Number of trials.
            max_epochs: Number of epochs of all runs together.
            max_seconds: Seconds in all.

        Raises:
            MeshError: Any error that `TunerService.RunStudy` documents.
        """
        budget = tuner_pb2.StudyBudget(
            max_parallel=max_parallel, max_trials=max_trials, max_epochs=max_epochs, max_seconds=max_seconds
        )
        spec = tuner_pb2.StudyRunSpec(
            run=run if isinstance(run, trainer_pb2.RunSpec) else parse_spec(run, path="spec.run"),
            fields=[tuner_pb2.ParameterField(parameter=name, field=field) for name, field in fields.items()],
            metric=metric,
            budget=budget,
        )
        request = tuner_pb2.RunStudyRequest(name=study_name(study, field="study"), spec=spec)
        running: tuner_pb2.Study = self._stub.RunStudy(request, timeout=SUGGEST_S).study
        return running

    def delete(self, study: str) -> None:
        """Deletes a study with its trials. The runs of its trials remain."""
        self._stub.DeleteStudy(tuner_pb2.DeleteStudyRequest(name=study_name(study, field="study")))

    def suggest(self, study: str, client_id: str, num_trials: int = 1) -> builtins.list[tuner_pb2.Trial]:
        """Returns the active trials of a worker and, if there are too few, new ones.

        Args:
            study: Name of the study.
            client_id: Identifies the worker, which keeps it when it restarts.
            num_trials: Number of active trials that the worker wants to have.

        Raises:
            FailedPrecondition: STUDY_STOPPED, STUDY_COMPLETE or SPACE_EXHAUSTED if there is no trial to return.
        """
        request = tuner_pb2.SuggestTrialsRequest(
            parent=study_name(study, field="study"), client_id=client_id, num_trials=num_trials
        )
        return builtins.list(self._stub.SuggestTrials(request, timeout=SUGGEST_S).trials)

    def trial(self, trial: str) -> tuner_pb2.Trial:
        """Returns a trial with all of its measurements."""
        request = tuner_pb2.GetTrialRequest(name=trial_name(trial, field="trial"))
        first, *rest = (page.trial for page in pages(self._stub.GetTrial, request))
        for page in rest:
            first.measurements.extend(page.measurements)
        found: tuner_pb2.Trial = first
        return found

    def trials(self, study: str) -> Iterator[tuner_pb2.Trial]:
        """Yields the trials of a study by number, without their measurements."""
        request = tuner_pb2.ListTrialsRequest(parent=study_name(study, field="study"))
        for page in pages(self._stub.ListTrials, request):
            yield from page.trials

    def optimal(self, study: str) -> Iterator[tuner_pb2.Trial]:
        """Yields the best trials by number; with several objectives, the Pareto front."""
        request = tuner_pb2.ListOptimalTrialsRequest(parent=study_name(study, field="study"))
        for page in pages(lambda one: self._stub.ListOptimalTrials(one, timeout=SUGGEST_S), request):
            yield from page.trials

    def measure(self, trial: str, step: int, /, **metrics: float) -> bool:
        """Adds a measurement to a trial. If the step was measured before, the first measurement is kept.

        Args:
            trial: Name of the trial.
            step: Position in the trial, e.g. the epoch; counts from 1.
            **metrics: Values by name of the metric.

        Returns:
            Whether somebody has asked the trial to stop; see also `report`.
        """
        return self._measure(trial, step, metrics, check_early_stopping=False)

    def report(self, trial: str, step: int, /, **metrics: float) -> bool:
        """Adds a measurement to a trial, as `measure`, and asks the pruner of the study whether to stop early.

        Returns:
            Whether the trial should stop; call `end_early` then.
        """
        return self._measure(trial, step, metrics, check_early_stopping=True)

    def should_stop(self, trial: str) -> bool:
        """Asks the pruner of the study whether a trial should stop early."""
        request = tuner_pb2.CheckEarlyStoppingRequest(name=trial_name(trial, field="trial"))
        return bool(self._stub.CheckEarlyStopping(request, timeout=SUGGEST_S).should_stop)

    def stop_trial(self, trial: str) -> tuner_pb2.Trial:
        """Asks the worker of a trial to stop."""
        request = tuner_pb2.StopTrialRequest(name=trial_name(trial, field="trial"))
        stopped: tuner_pb2.Trial = self._stub.StopTrial(request, timeout=SUGGEST_S).trial
        return stopped

    def complete(self, trial: str, /, **metrics: float) -> tuner_pb2.Trial:
        """Ends a trial with its final metrics; those that are missing come from its last measurement."""
        return self._end(trial, final=tuner_pb2.FinalMetrics(metrics=_metrics(metrics))).trial

    def complete_and_suggest(self, trial: str, /, **metrics: float) -> tuner_pb2.Trial | None:
        """Ends a trial as `complete` does, and returns the next trial of the same worker: one call instead of two.

        Returns:
            The trial; None if there is none. `suggest` reports the reason.
        """
        final = tuner_pb2.FinalMetrics(metrics=_metrics(metrics))
        return next(iter(self._end(trial, final=final, num_next=1).next), None)

    def fail(self, trial: str, message: str, *, reason: str = "") -> tuner_pb2.Trial:
        """Ends a trial without a result.

        Args:
            trial: Name of the trial.
            message: Message for people.
            reason: Machine-readable reason, e.g. OUT_OF_MEMORY; default WORKER_FAILED.
        """
        return self._end(trial, failure=tuner_pb2.TrialFailure(reason=reason, message=message[:1000])).trial

    def end_early(self, trial: str) -> tuner_pb2.Trial:
        """Ends a trial that was asked to stop. Its measurements still inform the algorithm."""
        return self._end(trial, stopped=True).trial

    def watch(
        self, study: str, *, after_sequence: int = 0, stored_only: bool = False, patience_s: float = PATIENCE_S
    ) -> Iterator[tuner_pb2.Trial]:
        """Yields the trials of a study as they change. Arguments and end are those of `follow`."""
        changes = self.follow(study, after_sequence=after_sequence, stored_only=stored_only, patience_s=patience_s)
        return (change.trial for change in changes if change.HasField("trial"))

    def follow(
        self, study: str, *, after_sequence: int = 0, stored_only: bool = False, patience_s: float = PATIENCE_S
    ) -> Iterator[tuner_pb2.WatchStudyResponse]:
        """Yields the trials of a study, and how far it is run by `run`, as they change. Resumes if the tuner restarts.

        Ends after the study is stopped, or `run` has ended, and no trial is active.

        Args:
            study: Name of the study.
            after_sequence: Sequence number. Only trials with a higher number are yielded.
            stored_only: Whether to end after the trials that are stored, without waiting for changes.
            patience_s: Time in seconds. If the tuner is unavailable, this call retries until it has waited this long
                for the next change.
        """
        name = study_name(study, field="study")

        def rest() -> Iterator[tuner_pb2.WatchStudyResponse]:
            request = tuner_pb2.WatchStudyRequest(name=name, after_sequence=after_sequence, stored_only=stored_only)
            return iter(self._stub.WatchStudy(request))

        for response in resumed(rest, patience_s=patience_s):
            after_sequence = max(after_sequence, response.trial.sequence)
            yield response

    def _measure(self, trial: str, step: int, metrics: Mapping[str, float], *, check_early_stopping: bool) -> bool:
        request = tuner_pb2.AddMeasurementRequest(
            name=trial_name(trial, field="trial"),
            measurement=tuner_pb2.Measurement(step=step, metrics=_metrics(metrics)),
            check_early_stopping=check_early_stopping,
        )
        state = self._stub.AddMeasurement(request, timeout=SUGGEST_S).state
        return bool(state == tuner_pb2.TRIAL_STATE_STOPPING)

    def _end(self, trial: str, **request: Any) -> tuner_pb2.CompleteTrialResponse:
        message = tuner_pb2.CompleteTrialRequest(name=trial_name(trial, field="trial"), **request)
        response: tuner_pb2.CompleteTrialResponse = self._stub.CompleteTrial(message, timeout=SUGGEST_S)
        return response


def _metrics(metrics: Mapping[str, float]) -> builtins.list[trainer_pb2.MetricValue]:
    return [trainer_pb2.MetricValue(name=name, value=value) for name, value in metrics.items()]
