import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.artifact.v1 import artifact_pb2 as _artifact_pb2
from protos.auth.v1 import auth_pb2 as _auth_pb2
from protos.job.v1 import job_pb2 as _job_pb2
from protos.privacy.v1 import privacy_pb2 as _privacy_pb2
from protos.trainer.v1 import trainer_pb2 as _trainer_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUND_STATE_UNSPECIFIED: _ClassVar[RoundState]
    ROUND_STATE_PLANNED: _ClassVar[RoundState]
    ROUND_STATE_COLLECTED: _ClassVar[RoundState]
    ROUND_STATE_DEBITED: _ClassVar[RoundState]
    ROUND_STATE_RELEASED: _ClassVar[RoundState]
    ROUND_STATE_FAILED: _ClassVar[RoundState]
ROUND_STATE_UNSPECIFIED: RoundState
ROUND_STATE_PLANNED: RoundState
ROUND_STATE_COLLECTED: RoundState
ROUND_STATE_DEBITED: RoundState
ROUND_STATE_RELEASED: RoundState
ROUND_STATE_FAILED: RoundState

class Federation(_message.Message):
    __slots__ = ("name", "description", "num_nodes", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    num_nodes: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., num_nodes: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "public_key", "fingerprint", "flower_node_id", "online", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FLOWER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    public_key: str
    fingerprint: str
    flower_node_id: int
    online: bool
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., public_key: _Optional[str] = ..., fingerprint: _Optional[str] = ..., flower_node_id: _Optional[int] = ..., online: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("all", "num_nodes", "rate")
    ALL_FIELD_NUMBER: _ClassVar[int]
    NUM_NODES_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    all: bool
    num_nodes: int
    rate: float
    def __init__(self, all: _Optional[bool] = ..., num_nodes: _Optional[int] = ..., rate: _Optional[float] = ...) -> None: ...

class PrivacySpec(_message.Message):
    __slots__ = ("unit", "clip_norm", "noise_multiplier", "target_epsilon", "delta", "budget", "example_rate")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CLIP_NORM_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    TARGET_EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    unit: _privacy_pb2.Unit
    clip_norm: float
    noise_multiplier: float
    target_epsilon: float
    delta: float
    budget: str
    example_rate: float
    def __init__(self, unit: _Optional[_Union[_privacy_pb2.Unit, str]] = ..., clip_norm: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., target_epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., budget: _Optional[str] = ..., example_rate: _Optional[float] = ...) -> None: ...

class FederatedRunSpec(_message.Message):
    __slots__ = ("model", "strategy", "num_rounds", "sampling", "local_epochs", "deadline_s", "quorum", "max_update_norm", "target_model", "privacy", "max_retries", "register_every")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOCAL_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    MAX_UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODEL_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    MAX_RETRIES_FIELD_NUMBER: _ClassVar[int]
    REGISTER_EVERY_FIELD_NUMBER: _ClassVar[int]
    model: _trainer_pb2.RunSpec
    strategy: _trainer_pb2.Component
    num_rounds: int
    sampling: Sampling
    local_epochs: int
    deadline_s: float
    quorum: int
    max_update_norm: float
    target_model: str
    privacy: PrivacySpec
    max_retries: int
    register_every: int
    def __init__(self, model: _Optional[_Union[_trainer_pb2.RunSpec, _Mapping]] = ..., strategy: _Optional[_Union[_trainer_pb2.Component, _Mapping]] = ..., num_rounds: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., local_epochs: _Optional[int] = ..., deadline_s: _Optional[float] = ..., quorum: _Optional[int] = ..., max_update_norm: _Optional[float] = ..., target_model: _Optional[str] = ..., privacy: _Optional[_Union[PrivacySpec, _Mapping]] = ..., max_retries: _Optional[int] = ..., register_every: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("node", "reason", "message")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    node: str
    reason: str
    message: str
    def __init__(self, node: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("round", "state", "attempt", "num_asked", "num_counted", "refusals", "metrics", "epsilon_spent", "epsilon_left", "model_version", "round_s")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_ASKED_FIELD_NUMBER: _ClassVar[int]
    NUM_COUNTED_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_LEFT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_S_FIELD_NUMBER: _ClassVar[int]
    round: int
    state: RoundState
    attempt: int
    num_asked: int
    num_counted: int
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    metrics: _containers.RepeatedCompositeFieldContainer[_trainer_pb2.MetricValue]
    epsilon_spent: float
    epsilon_left: float
    model_version: str
    round_s: float
    def __init__(self, round: _Optional[int] = ..., state: _Optional[_Union[RoundState, str]] = ..., attempt: _Optional[int] = ..., num_asked: _Optional[int] = ..., num_counted: _Optional[int] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_trainer_pb2.MetricValue, _Mapping]]] = ..., epsilon_spent: _Optional[float] = ..., epsilon_left: _Optional[float] = ..., model_version: _Optional[str] = ..., round_s: _Optional[float] = ...) -> None: ...

class RoundEvent(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: Round
    def __init__(self, round: _Optional[_Union[Round, _Mapping]] = ...) -> None: ...

class AttemptEvent(_message.Message):
    __slots__ = ("attempt", "round")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    round: int
    def __init__(self, attempt: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class WarningEvent(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StateEvent(_message.Message):
    __slots__ = ("state", "error")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    state: _job_pb2.JobState
    error: _job_pb2.JobError
    def __init__(self, state: _Optional[_Union[_job_pb2.JobState, str]] = ..., error: _Optional[_Union[_job_pb2.JobError, _Mapping]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("sequence", "time", "state", "attempt", "round", "warning")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    state: StateEvent
    attempt: AttemptEvent
    round: RoundEvent
    warning: WarningEvent
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[StateEvent, _Mapping]] = ..., attempt: _Optional[_Union[AttemptEvent, _Mapping]] = ..., round: _Optional[_Union[RoundEvent, _Mapping]] = ..., warning: _Optional[_Union[WarningEvent, _Mapping]] = ...) -> None: ...

class RunPrivacy(_message.Message):
    __slots__ = ("budget", "release", "guarantee", "epsilon_left")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    GUARANTEE_FIELD_NUMBER: _ClassVar[int]
    EPSILON_LEFT_FIELD_NUMBER: _ClassVar[int]
    budget: str
    release: _privacy_pb2.Release
    guarantee: _privacy_pb2.Guarantee
    epsilon_left: float
    def __init__(self, budget: _Optional[str] = ..., release: _Optional[_Union[_privacy_pb2.Release, _Mapping]] = ..., guarantee: _Optional[_Union[_privacy_pb2.Guarantee, _Mapping]] = ..., epsilon_left: _Optional[float] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("name", "spec", "job", "num_released", "last_round", "privacy", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    NUM_RELEASED_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: FederatedRunSpec
    job: _job_pb2.Job
    num_released: int
    last_round: Round
    privacy: RunPrivacy
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[FederatedRunSpec, _Mapping]] = ..., job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., num_released: _Optional[int] = ..., last_round: _Optional[_Union[Round, _Mapping]] = ..., privacy: _Optional[_Union[RunPrivacy, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateFederationRequest(_message.Message):
    __slots__ = ("federation_id", "description", "request_id")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    description: str
    request_id: str
    def __init__(self, federation_id: _Optional[str] = ..., description: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateFederationResponse(_message.Message):
    __slots__ = ("federation",)
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    federation: Federation
    def __init__(self, federation: _Optional[_Union[Federation, _Mapping]] = ...) -> None: ...

class GetFederationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetFederationResponse(_message.Message):
    __slots__ = ("federation",)
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    federation: Federation
    def __init__(self, federation: _Optional[_Union[Federation, _Mapping]] = ...) -> None: ...

class ListFederationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFederationsResponse(_message.Message):
    __slots__ = ("federations", "next_page_token")
    FEDERATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    federations: _containers.RepeatedCompositeFieldContainer[Federation]
    next_page_token: str
    def __init__(self, federations: _Optional[_Iterable[_Union[Federation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteFederationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteFederationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RegisterNodeRequest(_message.Message):
    __slots__ = ("parent", "node_id", "public_key", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    node_id: str
    public_key: str
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., node_id: _Optional[str] = ..., public_key: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class RegisterNodeResponse(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: Node
    def __init__(self, node: _Optional[_Union[Node, _Mapping]] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    next_page_token: str
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RemoveNodeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveNodeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetJoinInstructionsRequest(_message.Message):
    __slots__ = ("name", "data", "private_key_file", "root_certificate_file", "work_folder", "port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FILE_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FILE_FIELD_NUMBER: _ClassVar[int]
    WORK_FOLDER_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: str
    private_key_file: str
    root_certificate_file: str
    work_folder: str
    port: int
    def __init__(self, name: _Optional[str] = ..., data: _Optional[str] = ..., private_key_file: _Optional[str] = ..., root_certificate_file: _Optional[str] = ..., work_folder: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class GetJoinInstructionsResponse(_message.Message):
    __slots__ = ("superlink_address", "root_certificate", "command", "environment")
    SUPERLINK_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    superlink_address: str
    root_certificate: str
    command: _containers.RepeatedScalarFieldContainer[str]
    environment: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, superlink_address: _Optional[str] = ..., root_certificate: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., environment: _Optional[_Iterable[str]] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("parent", "spec", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    spec: FederatedRunSpec
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., spec: _Optional[_Union[FederatedRunSpec, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

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

class ListRunsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "active_only")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    active_only: bool
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., active_only: _Optional[bool] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

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

class GetModelRequest(_message.Message):
    __slots__ = ("name", "round")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    name: str
    round: int
    def __init__(self, name: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("round", "model_version", "arrays")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    round: Round
    model_version: str
    arrays: _artifact_pb2.Artifact
    def __init__(self, round: _Optional[_Union[Round, _Mapping]] = ..., model_version: _Optional[str] = ..., arrays: _Optional[_Union[_artifact_pb2.Artifact, _Mapping]] = ...) -> None: ...
