import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.auth.v1 import auth_pb2 as _auth_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIT_UNSPECIFIED: _ClassVar[Unit]
    UNIT_CLIENT: _ClassVar[Unit]
    UNIT_EXAMPLE: _ClassVar[Unit]

class Adjacency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADJACENCY_UNSPECIFIED: _ClassVar[Adjacency]
    ADJACENCY_ADD_REMOVE: _ClassVar[Adjacency]

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNSPECIFIED: _ClassVar[Sampling]
    SAMPLING_NONE: _ClassVar[Sampling]
    SAMPLING_POISSON: _ClassVar[Sampling]
UNIT_UNSPECIFIED: Unit
UNIT_CLIENT: Unit
UNIT_EXAMPLE: Unit
ADJACENCY_UNSPECIFIED: Adjacency
ADJACENCY_ADD_REMOVE: Adjacency
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_NONE: Sampling
SAMPLING_POISSON: Sampling

class Release(_message.Message):
    __slots__ = ("noise_multiplier", "sampling_rate", "count")
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    noise_multiplier: float
    sampling_rate: float
    count: int
    def __init__(self, noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("name", "dataset", "unit", "epsilon", "delta", "epsilon_spent", "epsilon_left", "num_debits", "head_sha256", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_LEFT_FIELD_NUMBER: _ClassVar[int]
    NUM_DEBITS_FIELD_NUMBER: _ClassVar[int]
    HEAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    unit: Unit
    epsilon: float
    delta: float
    epsilon_spent: float
    epsilon_left: float
    num_debits: int
    head_sha256: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., epsilon_spent: _Optional[float] = ..., epsilon_left: _Optional[float] = ..., num_debits: _Optional[int] = ..., head_sha256: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Debit(_message.Message):
    __slots__ = ("name", "release", "epsilon_spent", "run", "round", "sealed_sha256", "create_time", "previous_sha256", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SEALED_SHA256_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    release: Release
    epsilon_spent: float
    run: str
    round: int
    sealed_sha256: str
    create_time: _timestamp_pb2.Timestamp
    previous_sha256: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., epsilon_spent: _Optional[float] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., sealed_sha256: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., previous_sha256: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Guarantee(_message.Message):
    __slots__ = ("epsilon", "delta", "unit", "adjacency", "sampling", "debit")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ADJACENCY_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DEBIT_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency
    sampling: Sampling
    debit: str
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., unit: _Optional[_Union[Unit, str]] = ..., adjacency: _Optional[_Union[Adjacency, str]] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., debit: _Optional[str] = ...) -> None: ...

class CreateBudgetRequest(_message.Message):
    __slots__ = ("budget_id", "dataset", "unit", "epsilon", "delta", "request_id")
    BUDGET_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    budget_id: str
    dataset: str
    unit: Unit
    epsilon: float
    delta: float
    request_id: str
    def __init__(self, budget_id: _Optional[str] = ..., dataset: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateBudgetResponse(_message.Message):
    __slots__ = ("budget",)
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class GetBudgetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetBudgetResponse(_message.Message):
    __slots__ = ("budget",)
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "datasets")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    datasets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., datasets: _Optional[_Iterable[str]] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("budgets", "next_page_token")
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    next_page_token: str
    def __init__(self, budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PreviewDebitRequest(_message.Message):
    __slots__ = ("budget", "release", "planned")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    budget: str
    release: Release
    planned: _containers.RepeatedCompositeFieldContainer[Release]
    def __init__(self, budget: _Optional[str] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., planned: _Optional[_Iterable[_Union[Release, _Mapping]]] = ...) -> None: ...

class PreviewDebitResponse(_message.Message):
    __slots__ = ("epsilon_spent", "epsilon_after", "fits", "max_count")
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_AFTER_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    epsilon_spent: float
    epsilon_after: float
    fits: bool
    max_count: int
    def __init__(self, epsilon_spent: _Optional[float] = ..., epsilon_after: _Optional[float] = ..., fits: _Optional[bool] = ..., max_count: _Optional[int] = ...) -> None: ...

class DebitRequest(_message.Message):
    __slots__ = ("budget", "release", "run", "round", "sealed_sha256", "request_id")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SEALED_SHA256_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    budget: str
    release: Release
    run: str
    round: int
    sealed_sha256: str
    request_id: str
    def __init__(self, budget: _Optional[str] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., sealed_sha256: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DebitResponse(_message.Message):
    __slots__ = ("debit", "budget")
    DEBIT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    debit: Debit
    budget: Budget
    def __init__(self, debit: _Optional[_Union[Debit, _Mapping]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class ListDebitsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDebitsResponse(_message.Message):
    __slots__ = ("debits", "next_page_token")
    DEBITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    debits: _containers.RepeatedCompositeFieldContainer[Debit]
    next_page_token: str
    def __init__(self, debits: _Optional[_Iterable[_Union[Debit, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class KnownDebit(_message.Message):
    __slots__ = ("name", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class VerifyBudgetRequest(_message.Message):
    __slots__ = ("name", "known_debits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KNOWN_DEBITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    known_debits: _containers.RepeatedCompositeFieldContainer[KnownDebit]
    def __init__(self, name: _Optional[str] = ..., known_debits: _Optional[_Iterable[_Union[KnownDebit, _Mapping]]] = ...) -> None: ...

class VerifyBudgetResponse(_message.Message):
    __slots__ = ("budget", "epsilon_recomputed", "num_audited_debits")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    EPSILON_RECOMPUTED_FIELD_NUMBER: _ClassVar[int]
    NUM_AUDITED_DEBITS_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    epsilon_recomputed: float
    num_audited_debits: int
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ..., epsilon_recomputed: _Optional[float] = ..., num_audited_debits: _Optional[int] = ...) -> None: ...
