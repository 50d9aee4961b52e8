import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.auth.v1 import auth_pb2 as _auth_pb2
from protos.job.v1 import job_pb2 as _job_pb2
from protos.trainer.v1 import trainer_pb2 as _trainer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Goal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GOAL_UNSPECIFIED: _ClassVar[Goal]
    GOAL_MINIMIZE: _ClassVar[Goal]
    GOAL_MAXIMIZE: _ClassVar[Goal]

class StudyRunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STUDY_RUN_STATE_UNSPECIFIED: _ClassVar[StudyRunState]
    STUDY_RUN_STATE_RUNNING: _ClassVar[StudyRunState]
    STUDY_RUN_STATE_SUCCEEDED: _ClassVar[StudyRunState]
    STUDY_RUN_STATE_STOPPED: _ClassVar[StudyRunState]
    STUDY_RUN_STATE_FAILED: _ClassVar[StudyRunState]

class StudyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STUDY_STATE_UNSPECIFIED: _ClassVar[StudyState]
    STUDY_STATE_ACTIVE: _ClassVar[StudyState]
    STUDY_STATE_STOPPED: _ClassVar[StudyState]

class TrialState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRIAL_STATE_UNSPECIFIED: _ClassVar[TrialState]
    TRIAL_STATE_ACTIVE: _ClassVar[TrialState]
    TRIAL_STATE_STOPPING: _ClassVar[TrialState]
    TRIAL_STATE_SUCCEEDED: _ClassVar[TrialState]
    TRIAL_STATE_STOPPED: _ClassVar[TrialState]
    TRIAL_STATE_FAILED: _ClassVar[TrialState]
GOAL_UNSPECIFIED: Goal
GOAL_MINIMIZE: Goal
GOAL_MAXIMIZE: Goal
STUDY_RUN_STATE_UNSPECIFIED: StudyRunState
STUDY_RUN_STATE_RUNNING: StudyRunState
STUDY_RUN_STATE_SUCCEEDED: StudyRunState
STUDY_RUN_STATE_STOPPED: StudyRunState
STUDY_RUN_STATE_FAILED: StudyRunState
STUDY_STATE_UNSPECIFIED: StudyState
STUDY_STATE_ACTIVE: StudyState
STUDY_STATE_STOPPED: StudyState
TRIAL_STATE_UNSPECIFIED: TrialState
TRIAL_STATE_ACTIVE: TrialState
TRIAL_STATE_STOPPING: TrialState
TRIAL_STATE_SUCCEEDED: TrialState
TRIAL_STATE_STOPPED: TrialState
TRIAL_STATE_FAILED: TrialState

class FloatRange(_message.Message):
    __slots__ = ("low", "high", "log", "step")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    log: bool
    step: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., log: _Optional[bool] = ..., step: _Optional[float] = ...) -> None: ...

class IntegerRange(_message.Message):
    __slots__ = ("low", "high", "log", "step")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    low: int
    high: int
    log: bool
    step: int
    def __init__(self, low: _Optional[int] = ..., high: _Optional[int] = ..., log: _Optional[bool] = ..., step: _Optional[int] = ...) -> None: ...

class Choices(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Value]
    def __init__(self, values: _Optional[_Iterable[_Union[_struct_pb2.Value, _Mapping]]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("parameter", "values", "at_least", "at_most")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    values: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Value]
    at_least: float
    at_most: float
    def __init__(self, parameter: _Optional[str] = ..., values: _Optional[_Iterable[_Union[_struct_pb2.Value, _Mapping]]] = ..., at_least: _Optional[float] = ..., at_most: _Optional[float] = ...) -> None: ...

class ParameterSpec(_message.Message):
    __slots__ = ("name", "float_range", "integer_range", "choices", "conditions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FLOAT_RANGE_FIELD_NUMBER: _ClassVar[int]
    INTEGER_RANGE_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    float_range: FloatRange
    integer_range: IntegerRange
    choices: Choices
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, name: _Optional[str] = ..., float_range: _Optional[_Union[FloatRange, _Mapping]] = ..., integer_range: _Optional[_Union[IntegerRange, _Mapping]] = ..., choices: _Optional[_Union[Choices, _Mapping]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class Term(_message.Message):
    __slots__ = ("parameter", "coefficient")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    coefficient: float
    def __init__(self, parameter: _Optional[str] = ..., coefficient: _Optional[float] = ...) -> None: ...

class LinearConstraint(_message.Message):
    __slots__ = ("terms", "at_most")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    terms: _containers.RepeatedCompositeFieldContainer[Term]
    at_most: float
    def __init__(self, terms: _Optional[_Iterable[_Union[Term, _Mapping]]] = ..., at_most: _Optional[float] = ...) -> None: ...

class Objective(_message.Message):
    __slots__ = ("metric", "goal")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    metric: str
    goal: Goal
    def __init__(self, metric: _Optional[str] = ..., goal: _Optional[_Union[Goal, str]] = ...) -> None: ...

class OutcomeConstraint(_message.Message):
    __slots__ = ("metric", "at_most", "at_least")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    metric: str
    at_most: float
    at_least: float
    def __init__(self, metric: _Optional[str] = ..., at_most: _Optional[float] = ..., at_least: _Optional[float] = ...) -> None: ...

class StudySpec(_message.Message):
    __slots__ = ("parameters", "parameter_constraints", "objectives", "outcome_constraints", "algorithm", "pruner", "seed", "max_trials")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    PRUNER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TRIALS_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterSpec]
    parameter_constraints: _containers.RepeatedCompositeFieldContainer[LinearConstraint]
    objectives: _containers.RepeatedCompositeFieldContainer[Objective]
    outcome_constraints: _containers.RepeatedCompositeFieldContainer[OutcomeConstraint]
    algorithm: _trainer_pb2.Component
    pruner: _trainer_pb2.Component
    seed: int
    max_trials: int
    def __init__(self, parameters: _Optional[_Iterable[_Union[ParameterSpec, _Mapping]]] = ..., parameter_constraints: _Optional[_Iterable[_Union[LinearConstraint, _Mapping]]] = ..., objectives: _Optional[_Iterable[_Union[Objective, _Mapping]]] = ..., outcome_constraints: _Optional[_Iterable[_Union[OutcomeConstraint, _Mapping]]] = ..., algorithm: _Optional[_Union[_trainer_pb2.Component, _Mapping]] = ..., pruner: _Optional[_Union[_trainer_pb2.Component, _Mapping]] = ..., seed: _Optional[int] = ..., max_trials: _Optional[int] = ...) -> None: ...

class ParameterField(_message.Message):
    __slots__ = ("parameter", "field")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    field: str
    def __init__(self, parameter: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...

class StudyBudget(_message.Message):
    __slots__ = ("max_parallel", "max_trials", "max_epochs", "max_seconds")
    MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    MAX_TRIALS_FIELD_NUMBER: _ClassVar[int]
    MAX_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    max_parallel: int
    max_trials: int
    max_epochs: int
    max_seconds: float
    def __init__(self, max_parallel: _Optional[int] = ..., max_trials: _Optional[int] = ..., max_epochs: _Optional[int] = ..., max_seconds: _Optional[float] = ...) -> None: ...

class StudyRunSpec(_message.Message):
    __slots__ = ("run", "fields", "metric", "budget")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    run: _trainer_pb2.RunSpec
    fields: _containers.RepeatedCompositeFieldContainer[ParameterField]
    metric: str
    budget: StudyBudget
    def __init__(self, run: _Optional[_Union[_trainer_pb2.RunSpec, _Mapping]] = ..., fields: _Optional[_Iterable[_Union[ParameterField, _Mapping]]] = ..., metric: _Optional[str] = ..., budget: _Optional[_Union[StudyBudget, _Mapping]] = ...) -> None: ...

class StudyRun(_message.Message):
    __slots__ = ("spec", "state", "end_reason", "message", "num_trials", "num_epochs", "seconds", "job")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIALS_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    spec: StudyRunSpec
    state: StudyRunState
    end_reason: str
    message: str
    num_trials: int
    num_epochs: int
    seconds: float
    job: _job_pb2.Job
    def __init__(self, spec: _Optional[_Union[StudyRunSpec, _Mapping]] = ..., state: _Optional[_Union[StudyRunState, str]] = ..., end_reason: _Optional[str] = ..., message: _Optional[str] = ..., num_trials: _Optional[int] = ..., num_epochs: _Optional[int] = ..., seconds: _Optional[float] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("name", "spec", "state", "num_trials", "num_ended", "create_time", "sequence", "run")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIALS_FIELD_NUMBER: _ClassVar[int]
    NUM_ENDED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: StudySpec
    state: StudyState
    num_trials: int
    num_ended: int
    create_time: _timestamp_pb2.Timestamp
    sequence: int
    run: StudyRun
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., state: _Optional[_Union[StudyState, str]] = ..., num_trials: _Optional[int] = ..., num_ended: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., run: _Optional[_Union[StudyRun, _Mapping]] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("step", "metrics", "create_time")
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    step: int
    metrics: _containers.RepeatedCompositeFieldContainer[_trainer_pb2.MetricValue]
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, step: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[_trainer_pb2.MetricValue, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ExploitedParameter(_message.Message):
    __slots__ = ("name", "old", "new")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    old: float
    new: float
    def __init__(self, name: _Optional[str] = ..., old: _Optional[float] = ..., new: _Optional[float] = ...) -> None: ...

class Exploit(_message.Message):
    __slots__ = ("epoch", "source", "source_step", "parameters", "applied_step", "failure_reason", "failure_message")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_STEP_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_STEP_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    source: str
    source_step: int
    parameters: _containers.RepeatedCompositeFieldContainer[ExploitedParameter]
    applied_step: int
    failure_reason: str
    failure_message: str
    def __init__(self, epoch: _Optional[int] = ..., source: _Optional[str] = ..., source_step: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[ExploitedParameter, _Mapping]]] = ..., applied_step: _Optional[int] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("name", "state", "parameters", "client_id", "metrics", "failure_reason", "failure_message", "measurements", "last_measurement", "feasible", "start_time", "end_time", "sequence", "run", "exploits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_MEASUREMENT_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXPLOITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: TrialState
    parameters: _struct_pb2.Struct
    client_id: str
    metrics: _containers.RepeatedCompositeFieldContainer[_trainer_pb2.MetricValue]
    failure_reason: str
    failure_message: str
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    last_measurement: Measurement
    feasible: bool
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    sequence: int
    run: str
    exploits: _containers.RepeatedCompositeFieldContainer[Exploit]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[TrialState, str]] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., client_id: _Optional[str] = ..., metrics: _Optional[_Iterable[_Union[_trainer_pb2.MetricValue, _Mapping]]] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., last_measurement: _Optional[_Union[Measurement, _Mapping]] = ..., feasible: _Optional[bool] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., run: _Optional[str] = ..., exploits: _Optional[_Iterable[_Union[Exploit, _Mapping]]] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("study_id", "spec", "request_id")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    spec: StudySpec
    request_id: str
    def __init__(self, study_id: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: Study
    def __init__(self, study: _Optional[_Union[Study, _Mapping]] = ...) -> None: ...

class GetStudyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: Study
    def __init__(self, study: _Optional[_Union[Study, _Mapping]] = ...) -> None: ...

class ListStudiesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStudiesResponse(_message.Message):
    __slots__ = ("studies", "next_page_token")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    next_page_token: str
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StopStudyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: Study
    def __init__(self, study: _Optional[_Union[Study, _Mapping]] = ...) -> None: ...

class RunStudyRequest(_message.Message):
    __slots__ = ("name", "spec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: StudyRunSpec
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudyRunSpec, _Mapping]] = ...) -> None: ...

class RunStudyResponse(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: Study
    def __init__(self, study: _Optional[_Union[Study, _Mapping]] = ...) -> None: ...

class DeleteStudyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteStudyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchStudyRequest(_message.Message):
    __slots__ = ("name", "after_sequence", "stored_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STORED_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    stored_only: bool
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ..., stored_only: _Optional[bool] = ...) -> None: ...

class WatchStudyResponse(_message.Message):
    __slots__ = ("trial", "run")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    run: StudyRun
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ..., run: _Optional[_Union[StudyRun, _Mapping]] = ...) -> None: ...

class SuggestTrialsRequest(_message.Message):
    __slots__ = ("parent", "client_id", "num_trials")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_TRIALS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    client_id: str
    num_trials: int
    def __init__(self, parent: _Optional[str] = ..., client_id: _Optional[str] = ..., num_trials: _Optional[int] = ...) -> None: ...

class SuggestTrialsResponse(_message.Message):
    __slots__ = ("trials",)
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    def __init__(self, trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ...) -> None: ...

class GetTrialRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class GetTrialResponse(_message.Message):
    __slots__ = ("trial", "next_page_token")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    next_page_token: str
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListTrialsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "state")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    state: TrialState
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[_Union[TrialState, str]] = ...) -> None: ...

class ListTrialsResponse(_message.Message):
    __slots__ = ("trials", "next_page_token")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    next_page_token: str
    def __init__(self, trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListOptimalTrialsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListOptimalTrialsResponse(_message.Message):
    __slots__ = ("trials", "next_page_token")
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    next_page_token: str
    def __init__(self, trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AddMeasurementRequest(_message.Message):
    __slots__ = ("name", "measurement", "check_early_stopping")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENT_FIELD_NUMBER: _ClassVar[int]
    CHECK_EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    name: str
    measurement: Measurement
    check_early_stopping: bool
    def __init__(self, name: _Optional[str] = ..., measurement: _Optional[_Union[Measurement, _Mapping]] = ..., check_early_stopping: _Optional[bool] = ...) -> None: ...

class AddMeasurementResponse(_message.Message):
    __slots__ = ("state", "already_measured")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ALREADY_MEASURED_FIELD_NUMBER: _ClassVar[int]
    state: TrialState
    already_measured: bool
    def __init__(self, state: _Optional[_Union[TrialState, str]] = ..., already_measured: _Optional[bool] = ...) -> None: ...

class CheckEarlyStoppingRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CheckEarlyStoppingResponse(_message.Message):
    __slots__ = ("should_stop",)
    SHOULD_STOP_FIELD_NUMBER: _ClassVar[int]
    should_stop: bool
    def __init__(self, should_stop: _Optional[bool] = ...) -> None: ...

class StopTrialRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopTrialResponse(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class FinalMetrics(_message.Message):
    __slots__ = ("metrics",)
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[_trainer_pb2.MetricValue]
    def __init__(self, metrics: _Optional[_Iterable[_Union[_trainer_pb2.MetricValue, _Mapping]]] = ...) -> None: ...

class TrialFailure(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class CompleteTrialRequest(_message.Message):
    __slots__ = ("name", "final", "failure", "stopped", "num_next")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    NUM_NEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    final: FinalMetrics
    failure: TrialFailure
    stopped: bool
    num_next: int
    def __init__(self, name: _Optional[str] = ..., final: _Optional[_Union[FinalMetrics, _Mapping]] = ..., failure: _Optional[_Union[TrialFailure, _Mapping]] = ..., stopped: _Optional[bool] = ..., num_next: _Optional[int] = ...) -> None: ...

class CompleteTrialResponse(_message.Message):
    __slots__ = ("trial", "next")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    next: _containers.RepeatedCompositeFieldContainer[Trial]
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ..., next: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ...) -> None: ...
