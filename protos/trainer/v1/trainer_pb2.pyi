import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.artifact.v1 import artifact_pb2 as _artifact_pb2
from protos.auth.v1 import auth_pb2 as _auth_pb2
from protos.job.v1 import job_pb2 as _job_pb2
from protos.privacy.v1 import privacy_pb2 as _privacy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_AUTO: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]
    PRECISION_FP16: _ClassVar[Precision]

class PrecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_REASON_UNSPECIFIED: _ClassVar[PrecisionReason]
    PRECISION_REASON_REQUESTED: _ClassVar[PrecisionReason]
    PRECISION_REASON_FASTEST: _ClassVar[PrecisionReason]
    PRECISION_REASON_DEVICE: _ClassVar[PrecisionReason]
    PRECISION_REASON_KEPT: _ClassVar[PrecisionReason]
PRECISION_UNSPECIFIED: Precision
PRECISION_AUTO: Precision
PRECISION_FP32: Precision
PRECISION_BF16: Precision
PRECISION_FP16: Precision
PRECISION_REASON_UNSPECIFIED: PrecisionReason
PRECISION_REASON_REQUESTED: PrecisionReason
PRECISION_REASON_FASTEST: PrecisionReason
PRECISION_REASON_DEVICE: PrecisionReason
PRECISION_REASON_KEPT: PrecisionReason

class Component(_message.Message):
    __slots__ = ("name", "params")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    params: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class FieldMapping(_message.Message):
    __slots__ = ("field", "input", "encoder", "augmentations")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    AUGMENTATIONS_FIELD_NUMBER: _ClassVar[int]
    field: str
    input: str
    encoder: Component
    augmentations: _containers.RepeatedCompositeFieldContainer[Component]
    def __init__(self, field: _Optional[str] = ..., input: _Optional[str] = ..., encoder: _Optional[_Union[Component, _Mapping]] = ..., augmentations: _Optional[_Iterable[_Union[Component, _Mapping]]] = ...) -> None: ...

class EarlyStopping(_message.Message):
    __slots__ = ("patience", "min_delta")
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_FIELD_NUMBER: _ClassVar[int]
    patience: int
    min_delta: float
    def __init__(self, patience: _Optional[int] = ..., min_delta: _Optional[float] = ...) -> None: ...

class DpSgd(_message.Message):
    __slots__ = ("noise_multiplier", "target_epsilon", "clip_norm", "example_rate", "budget")
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    TARGET_EPSILON_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    noise_multiplier: float
    target_epsilon: float
    clip_norm: float
    example_rate: float
    budget: str
    def __init__(self, noise_multiplier: _Optional[float] = ..., target_epsilon: _Optional[float] = ..., clip_norm: _Optional[float] = ..., example_rate: _Optional[float] = ..., budget: _Optional[str] = ...) -> None: ...

class RunSpec(_message.Message):
    __slots__ = ("dataset_version", "model", "loss", "optimizer", "schedule", "metrics", "inputs", "target", "train_split", "eval_split", "epochs", "batch_size", "precision", "num_workers", "seed", "clip_norm", "checkpoint_interval_s", "select_metric", "early_stopping", "init", "freeze", "eval_share", "privacy", "policy")
    DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SPLIT_FIELD_NUMBER: _ClassVar[int]
    EVAL_SPLIT_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    SELECT_METRIC_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    INIT_FIELD_NUMBER: _ClassVar[int]
    FREEZE_FIELD_NUMBER: _ClassVar[int]
    EVAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    dataset_version: str
    model: Component
    loss: Component
    optimizer: Component
    schedule: Component
    metrics: _containers.RepeatedCompositeFieldContainer[Component]
    inputs: _containers.RepeatedCompositeFieldContainer[FieldMapping]
    target: FieldMapping
    train_split: str
    eval_split: str
    epochs: int
    batch_size: int
    precision: Precision
    num_workers: int
    seed: int
    clip_norm: float
    checkpoint_interval_s: float
    select_metric: str
    early_stopping: EarlyStopping
    init: str
    freeze: _containers.RepeatedScalarFieldContainer[str]
    eval_share: float
    privacy: DpSgd
    policy: Component
    def __init__(self, dataset_version: _Optional[str] = ..., model: _Optional[_Union[Component, _Mapping]] = ..., loss: _Optional[_Union[Component, _Mapping]] = ..., optimizer: _Optional[_Union[Component, _Mapping]] = ..., schedule: _Optional[_Union[Component, _Mapping]] = ..., metrics: _Optional[_Iterable[_Union[Component, _Mapping]]] = ..., inputs: _Optional[_Iterable[_Union[FieldMapping, _Mapping]]] = ..., target: _Optional[_Union[FieldMapping, _Mapping]] = ..., train_split: _Optional[str] = ..., eval_split: _Optional[str] = ..., epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., precision: _Optional[_Union[Precision, str]] = ..., num_workers: _Optional[int] = ..., seed: _Optional[int] = ..., clip_norm: _Optional[float] = ..., checkpoint_interval_s: _Optional[float] = ..., select_metric: _Optional[str] = ..., early_stopping: _Optional[_Union[EarlyStopping, _Mapping]] = ..., init: _Optional[str] = ..., freeze: _Optional[_Iterable[str]] = ..., eval_share: _Optional[float] = ..., privacy: _Optional[_Union[DpSgd, _Mapping]] = ..., policy: _Optional[_Union[Component, _Mapping]] = ...) -> None: ...

class MetricValue(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class StepEvent(_message.Message):
    __slots__ = ("step", "num_steps", "epoch", "metrics", "samples_per_second", "eta_s", "learning_rate", "num_skipped_steps", "gradient_norm")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_STEPS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    step: int
    num_steps: int
    epoch: int
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    samples_per_second: float
    eta_s: float
    learning_rate: float
    num_skipped_steps: int
    gradient_norm: float
    def __init__(self, step: _Optional[int] = ..., num_steps: _Optional[int] = ..., epoch: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., samples_per_second: _Optional[float] = ..., eta_s: _Optional[float] = ..., learning_rate: _Optional[float] = ..., num_skipped_steps: _Optional[int] = ..., gradient_norm: _Optional[float] = ...) -> None: ...

class SteeredValues(_message.Message):
    __slots__ = ("learning_rate", "momentum")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    momentum: float
    def __init__(self, learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ...) -> None: ...

class AdjustmentEvent(_message.Message):
    __slots__ = ("step", "policy", "old", "new")
    STEP_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    step: int
    policy: str
    old: SteeredValues
    new: SteeredValues
    def __init__(self, step: _Optional[int] = ..., policy: _Optional[str] = ..., old: _Optional[_Union[SteeredValues, _Mapping]] = ..., new: _Optional[_Union[SteeredValues, _Mapping]] = ...) -> None: ...

class EvaluationEvent(_message.Message):
    __slots__ = ("step", "epoch", "metrics", "is_best", "ends_run")
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    IS_BEST_FIELD_NUMBER: _ClassVar[int]
    ENDS_RUN_FIELD_NUMBER: _ClassVar[int]
    step: int
    epoch: int
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    is_best: bool
    ends_run: bool
    def __init__(self, step: _Optional[int] = ..., epoch: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., is_best: _Optional[bool] = ..., ends_run: _Optional[bool] = ...) -> None: ...

class CheckpointEvent(_message.Message):
    __slots__ = ("step", "artifact", "best_weights")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    BEST_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    artifact: _artifact_pb2.Artifact
    best_weights: _artifact_pb2.Artifact
    def __init__(self, step: _Optional[int] = ..., artifact: _Optional[_Union[_artifact_pb2.Artifact, _Mapping]] = ..., best_weights: _Optional[_Union[_artifact_pb2.Artifact, _Mapping]] = ...) -> None: ...

class AttemptEvent(_message.Message):
    __slots__ = ("attempt", "start_step")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    START_STEP_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    start_step: int
    def __init__(self, attempt: _Optional[int] = ..., start_step: _Optional[int] = ...) -> None: ...

class PrecisionRatio(_message.Message):
    __slots__ = ("precision", "ratio")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    precision: Precision
    ratio: float
    def __init__(self, precision: _Optional[_Union[Precision, str]] = ..., ratio: _Optional[float] = ...) -> None: ...

class PrecisionEvent(_message.Message):
    __slots__ = ("precision", "reason", "ratios", "instruction_set")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_SET_FIELD_NUMBER: _ClassVar[int]
    precision: Precision
    reason: PrecisionReason
    ratios: _containers.RepeatedCompositeFieldContainer[PrecisionRatio]
    instruction_set: str
    def __init__(self, precision: _Optional[_Union[Precision, str]] = ..., reason: _Optional[_Union[PrecisionReason, str]] = ..., ratios: _Optional[_Iterable[_Union[PrecisionRatio, _Mapping]]] = ..., instruction_set: _Optional[str] = ...) -> None: ...

class WarningEvent(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class StateEvent(_message.Message):
    __slots__ = ("state", "error")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    state: _job_pb2.JobState
    error: _job_pb2.JobError
    def __init__(self, state: _Optional[_Union[_job_pb2.JobState, str]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("sequence", "time", "step", "evaluation", "checkpoint", "attempt", "state", "warning", "precision", "adjustment", "directive")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ADJUSTMENT_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    step: StepEvent
    evaluation: EvaluationEvent
    checkpoint: CheckpointEvent
    attempt: AttemptEvent
    state: StateEvent
    warning: WarningEvent
    precision: PrecisionEvent
    adjustment: AdjustmentEvent
    directive: DirectiveAck
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[_Union[StepEvent, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationEvent, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointEvent, _Mapping]] = ..., attempt: _Optional[_Union[AttemptEvent, _Mapping]] = ..., state: _Optional[_Union[StateEvent, _Mapping]] = ..., warning: _Optional[_Union[WarningEvent, _Mapping]] = ..., precision: _Optional[_Union[PrecisionEvent, _Mapping]] = ..., adjustment: _Optional[_Union[AdjustmentEvent, _Mapping]] = ..., directive: _Optional[_Union[DirectiveAck, _Mapping]] = ...) -> None: ...

class SaveCheckpoint(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RestoreCheckpoint(_message.Message):
    __slots__ = ("step", "run")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    step: int
    run: str
    def __init__(self, step: _Optional[int] = ..., run: _Optional[str] = ...) -> None: ...

class StopTraining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NoOperation(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Directive(_message.Message):
    __slots__ = ("id", "apply_at_step", "expire_after_s", "set_learning_rate", "set_momentum", "set_policy", "checkpoint", "restore", "stop", "no_op")
    ID_FIELD_NUMBER: _ClassVar[int]
    APPLY_AT_STEP_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    SET_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SET_MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    SET_POLICY_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    NO_OP_FIELD_NUMBER: _ClassVar[int]
    id: str
    apply_at_step: int
    expire_after_s: float
    set_learning_rate: float
    set_momentum: float
    set_policy: Component
    checkpoint: SaveCheckpoint
    restore: RestoreCheckpoint
    stop: StopTraining
    no_op: NoOperation
    def __init__(self, id: _Optional[str] = ..., apply_at_step: _Optional[int] = ..., expire_after_s: _Optional[float] = ..., set_learning_rate: _Optional[float] = ..., set_momentum: _Optional[float] = ..., set_policy: _Optional[_Union[Component, _Mapping]] = ..., checkpoint: _Optional[_Union[SaveCheckpoint, _Mapping]] = ..., restore: _Optional[_Union[RestoreCheckpoint, _Mapping]] = ..., stop: _Optional[_Union[StopTraining, _Mapping]] = ..., no_op: _Optional[_Union[NoOperation, _Mapping]] = ...) -> None: ...

class DirectiveAck(_message.Message):
    __slots__ = ("directive_id", "action", "applied_step", "late", "apply_time", "old", "new", "error")
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_STEP_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    APPLY_TIME_FIELD_NUMBER: _ClassVar[int]
    OLD_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    action: str
    applied_step: int
    late: bool
    apply_time: _timestamp_pb2.Timestamp
    old: SteeredValues
    new: SteeredValues
    error: _job_pb2.JobError
    def __init__(self, directive_id: _Optional[str] = ..., action: _Optional[str] = ..., applied_step: _Optional[int] = ..., late: _Optional[bool] = ..., apply_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., old: _Optional[_Union[SteeredValues, _Mapping]] = ..., new: _Optional[_Union[SteeredValues, _Mapping]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("name", "spec", "job", "fingerprint", "checkpoint", "metrics", "train_s", "num_threads", "best_step", "best_epoch", "display_name", "note", "tags", "external", "parameters", "privacy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_S_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    BEST_STEP_FIELD_NUMBER: _ClassVar[int]
    BEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: RunSpec
    job: _job_pb2.Job
    fingerprint: str
    checkpoint: _artifact_pb2.Artifact
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    train_s: float
    num_threads: int
    best_step: int
    best_epoch: int
    display_name: str
    note: str
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    external: bool
    parameters: _struct_pb2.Struct
    privacy: RunPrivacy
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., fingerprint: _Optional[str] = ..., checkpoint: _Optional[_Union[_artifact_pb2.Artifact, _Mapping]] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., train_s: _Optional[float] = ..., num_threads: _Optional[int] = ..., best_step: _Optional[int] = ..., best_epoch: _Optional[int] = ..., display_name: _Optional[str] = ..., note: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., external: _Optional[bool] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., privacy: _Optional[_Union[RunPrivacy, _Mapping]] = ...) -> None: ...

class RunPrivacy(_message.Message):
    __slots__ = ("budget", "release")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    budget: str
    release: _privacy_pb2.Release
    def __init__(self, budget: _Optional[str] = ..., release: _Optional[_Union[_privacy_pb2.Release, _Mapping]] = ...) -> None: ...

class Tag(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SubmitRunRequest(_message.Message):
    __slots__ = ("spec", "reuse", "request_id", "exportable", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REUSE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPORTABLE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: RunSpec
    reuse: bool
    request_id: str
    exportable: bool
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[RunSpec, _Mapping]] = ..., reuse: _Optional[bool] = ..., request_id: _Optional[str] = ..., exportable: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitRunResponse(_message.Message):
    __slots__ = ("run", "reused")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    run: Run
    reused: bool
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., reused: _Optional[bool] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("name", "after_sequence", "stored_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STORED_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    stored_only: bool
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ..., stored_only: _Optional[bool] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: RunEvent
    def __init__(self, event: _Optional[_Union[RunEvent, _Mapping]] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class SteerRunRequest(_message.Message):
    __slots__ = ("name", "after_sequence", "directive", "answers_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    directive: Directive
    answers_only: bool
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ..., directive: _Optional[_Union[Directive, _Mapping]] = ..., answers_only: _Optional[bool] = ...) -> None: ...

class SteerRunResponse(_message.Message):
    __slots__ = ("event", "ack")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    event: RunEvent
    ack: DirectiveAck
    def __init__(self, event: _Optional[_Union[RunEvent, _Mapping]] = ..., ack: _Optional[_Union[DirectiveAck, _Mapping]] = ...) -> None: ...

class UpdateRunRequest(_message.Message):
    __slots__ = ("name", "display_name", "note", "set_tags", "remove_tags")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    SET_TAGS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    note: str
    set_tags: _containers.RepeatedCompositeFieldContainer[Tag]
    remove_tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., note: _Optional[str] = ..., set_tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., remove_tags: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class DeleteRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteRunResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateExternalRunRequest(_message.Message):
    __slots__ = ("display_name", "note", "tags", "parameters", "request_id")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    note: str
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    parameters: _struct_pb2.Struct
    request_id: str
    def __init__(self, display_name: _Optional[str] = ..., note: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateExternalRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class LoggedStep(_message.Message):
    __slots__ = ("step", "metrics")
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    step: int
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    def __init__(self, step: _Optional[int] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ...) -> None: ...

class LogRunRequest(_message.Message):
    __slots__ = ("name", "steps", "end", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    steps: _containers.RepeatedCompositeFieldContainer[LoggedStep]
    end: _job_pb2.JobState
    error: str
    def __init__(self, name: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[LoggedStep, _Mapping]]] = ..., end: _Optional[_Union[_job_pb2.JobState, str]] = ..., error: _Optional[str] = ...) -> None: ...

class LogRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "active_only")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    active_only: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., active_only: _Optional[bool] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExportModelRequest(_message.Message):
    __slots__ = ("run", "model", "int8", "int8_max_loss", "request_id")
    RUN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INT8_FIELD_NUMBER: _ClassVar[int]
    INT8_MAX_LOSS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    run: str
    model: str
    int8: bool
    int8_max_loss: float
    request_id: str
    def __init__(self, run: _Optional[str] = ..., model: _Optional[str] = ..., int8: _Optional[bool] = ..., int8_max_loss: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class ExportModelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ImportModelRequest(_message.Message):
    __slots__ = ("model", "license", "note", "request_id", "file", "offset", "data", "labels")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    model: str
    license: str
    note: str
    request_id: str
    file: str
    offset: int
    data: bytes
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., license: _Optional[str] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class ImportModelResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
