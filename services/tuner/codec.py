"""Converts the tuner's values between protobuf and the domain."""

import re
from collections.abc import Iterable, Mapping

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from common.errors import InvalidArgument
from common.jobs import JobState
from common.jobs.proto import job_to_proto
from common.paths import without_paths
from common.proto import enum_name, plain_json, timestamp
from deepseek.search.study_run import StudyRunSpec
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Exploit, Outcome, TrialState
from protos.trainer.v1 import trainer_pb2
from protos.tuner.v1 import tuner_pb2 as pb
from services.tuner.resources import study_name, trial_name
from services.tuner.study import Measurement, StudyRunView, StudyView, TrialView

MAX_SPEC_BYTES = 256 << 10
MAX_RUN_SPEC_BYTES = 32 << 10
"""Maximum size of an encoded run spec, as in the trainer."""
MAX_REASON = 100
MAX_MESSAGE = 1000

_REASON = re.compile(rf"[A-Z0-9_]{{1,{MAX_REASON}}}")


def read_spec(message: pb.StudySpec) -> StudySpec:
    """Converts a message to the spec of a study.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE; TOO_LARGE.
    """
    return StudySpec.from_json(plain_json(message, field="spec", max_bytes=MAX_SPEC_BYTES))


def read_run_spec(message: pb.StudyRunSpec) -> StudyRunSpec:
    """Converts a message to the spec with which a study is run.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE; TOO_LARGE.
    """
    plain_json(message.run, field="spec.run", max_bytes=MAX_RUN_SPEC_BYTES)
    return StudyRunSpec.from_json(plain_json(message, field="spec", max_bytes=MAX_SPEC_BYTES))


def read_measurement(message: pb.Measurement) -> Measurement:
    """Converts a message to a measurement.

    Raises:
        InvalidArgument: DUPLICATE_NAME.
    """
    return Measurement(message.step, _read_metrics(message.metrics, "measurement.metrics"))


def read_outcome(request: pb.CompleteTrialRequest) -> Outcome:
    """Returns how a trial ended.

    Raises:
        InvalidArgument: MISSING_FIELD, BAD_VALUE or DUPLICATE_NAME.
    """
    match request.WhichOneof("outcome"):
        case "final":
            return Outcome(TrialState.SUCCEEDED, _read_metrics(request.final.metrics, "final.metrics"))
        case "failure":
            return _read_failure(request.failure)
        case "stopped" if request.stopped:
            return Outcome(TrialState.STOPPED)
        case "stopped":
            raise InvalidArgument("BAD_VALUE", "stopped must be true; set another outcome instead", field="stopped")
    raise InvalidArgument("MISSING_FIELD", "set the outcome: final, failure or stopped", field="outcome")


def study_to_proto(study: StudyView) -> pb.Study:
    """Returns a study as a message."""
    return pb.Study(
        name=study_name(study.study_id),
        spec=json_format.ParseDict(study.spec.to_json(), pb.StudySpec()),
        state=pb.STUDY_STATE_STOPPED if study.stopped else pb.STUDY_STATE_ACTIVE,
        num_trials=study.num_trials,
        num_ended=study.num_ended,
        create_time=timestamp(study.create_us),
        sequence=study.sequence,
        run=run_to_proto(study.run) if study.run else None,
    )


def run_to_proto(run: StudyRunView) -> pb.StudyRun:
    """Returns how a study is run as a message."""
    states = {
        JobState.SUCCEEDED: pb.STUDY_RUN_STATE_SUCCEEDED,
        JobState.CANCELLED: pb.STUDY_RUN_STATE_STOPPED,
        JobState.FAILED: pb.STUDY_RUN_STATE_FAILED,
    }
    return pb.StudyRun(
        spec=json_format.ParseDict(run.spec.to_json(), pb.StudyRunSpec()),
        state=states.get(run.job.state, pb.STUDY_RUN_STATE_RUNNING),
        end_reason=run.end_reason or ("STUDY_STOPPED" if run.job.state == JobState.CANCELLED else ""),
        message=without_paths(run.job.error.message if run.job.error else run.job.message),
        num_trials=run.num_trials,
        num_epochs=run.num_epochs,
        seconds=run.seconds,
        job=job_to_proto(run.job),
    )


def trial_to_proto(view: TrialView) -> pb.Trial:
    """Returns a trial as a message."""
    trial, parameters = view.trial, Struct()
    parameters.update(trial.parameters)
    message = pb.Trial(
        name=trial_name(view.study_id, trial.number),
        state=state_name(trial.state),
        parameters=parameters,
        client_id=trial.client_id,
        metrics=_metrics(trial.metrics),
        failure_reason=trial.failure_reason,
        failure_message=trial.failure_message,
        measurements=[
            pb.Measurement(step=one.step, metrics=_metrics(one.metrics), create_time=timestamp(one.create_us))
            for one in view.measurements
        ],
        feasible=trial.feasible,
        start_time=timestamp(trial.start_us),
        sequence=trial.sequence,
        run=trial.run,
        exploits=[_exploit(view.study_id, exploit) for exploit in trial.exploits],
    )
    if trial.last_step is not None:
        message.last_measurement.CopyFrom(pb.Measurement(step=trial.last_step, metrics=_metrics(trial.last_metrics)))
    if trial.end_us is not None:
        message.end_time.CopyFrom(timestamp(trial.end_us))
    return message


def _exploit(study_id: str, exploit: Exploit) -> pb.Exploit:
    return pb.Exploit(
        epoch=exploit.epoch,
        source=trial_name(study_id, exploit.source),
        source_step=exploit.source_step,
        parameters=[
            pb.ExploitedParameter(name=name, old=exploit.old[name], new=value) for name, value in exploit.new.items()
        ],
        applied_step=exploit.applied_step,
        failure_reason=exploit.failure_reason,
        failure_message=without_paths(exploit.failure_message),
    )


def state_name(state: TrialState) -> str:
    """Returns the name of a state in the contract, which messages accept in place of its number."""
    return enum_name(pb.TrialState, state)


def _read_metrics(metrics: Iterable[trainer_pb2.MetricValue], field: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for index, metric in enumerate(metrics):
        if metric.name in found:
            message = f"the metric {metric.name[:80]!r} is listed twice"
            raise InvalidArgument("DUPLICATE_NAME", message, field=f"{field}[{index}].name")
        found[metric.name] = metric.value
    return found


def _read_failure(failure: pb.TrialFailure) -> Outcome:
    reason = failure.reason or "WORKER_FAILED"
    if not _REASON.fullmatch(reason):
        message = f"{reason[:80]!r} is not a reason; use at most {MAX_REASON} characters from A-Z, 0-9 and _"
        raise InvalidArgument("BAD_VALUE", message, field="failure.reason")
    if len(failure.message) > MAX_MESSAGE or "\0" in failure.message:
        message = f"the message may have at most {MAX_MESSAGE} characters, and no NUL"
        raise InvalidArgument("BAD_VALUE", message, field="failure.message")
    return Outcome(TrialState.FAILED, reason=reason, message=failure.message)


def _metrics(metrics: Mapping[str, float]) -> list[trainer_pb2.MetricValue]:
    return [trainer_pb2.MetricValue(name=name, value=value) for name, value in metrics.items()]
