from protos.auth.v1 import auth_pb2 as _auth_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStateResponse(_message.Message):
    __slots__ = ("service", "num_rows", "revisions", "known_revisions")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    service: str
    num_rows: int
    revisions: _containers.RepeatedScalarFieldContainer[str]
    known_revisions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., num_rows: _Optional[int] = ..., revisions: _Optional[_Iterable[str]] = ..., known_revisions: _Optional[_Iterable[str]] = ...) -> None: ...

class ListReferencesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReferencesResponse(_message.Message):
    __slots__ = ("references",)
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedCompositeFieldContainer[Reference]
    def __init__(self, references: _Optional[_Iterable[_Union[Reference, _Mapping]]] = ...) -> None: ...

class Reference(_message.Message):
    __slots__ = ("tenant", "sha256", "media_type")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    sha256: str
    media_type: str
    def __init__(self, tenant: _Optional[str] = ..., sha256: _Optional[str] = ..., media_type: _Optional[str] = ...) -> None: ...

class ExportStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExportStateResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImportStateRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImportStateResponse(_message.Message):
    __slots__ = ("num_rows",)
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    def __init__(self, num_rows: _Optional[int] = ...) -> None: ...

class BeginCollectionRequest(_message.Message):
    __slots__ = ("parent", "digests", "num_bytes")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digests: _containers.RepeatedScalarFieldContainer[str]
    num_bytes: int
    def __init__(self, parent: _Optional[str] = ..., digests: _Optional[_Iterable[str]] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class BeginCollectionResponse(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EndCollectionRequest(_message.Message):
    __slots__ = ("parent", "digests", "num_bytes")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    digests: _containers.RepeatedScalarFieldContainer[str]
    num_bytes: int
    def __init__(self, parent: _Optional[str] = ..., digests: _Optional[_Iterable[str]] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class EndCollectionResponse(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StatePart(_message.Message):
    __slots__ = ("header", "references", "rows", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: StateHeader
    references: StateReferences
    rows: StateRows
    end: StateEnd
    def __init__(self, header: _Optional[_Union[StateHeader, _Mapping]] = ..., references: _Optional[_Union[StateReferences, _Mapping]] = ..., rows: _Optional[_Union[StateRows, _Mapping]] = ..., end: _Optional[_Union[StateEnd, _Mapping]] = ...) -> None: ...

class StateHeader(_message.Message):
    __slots__ = ("service", "revisions")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    service: str
    revisions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., revisions: _Optional[_Iterable[str]] = ...) -> None: ...

class StateReferences(_message.Message):
    __slots__ = ("references",)
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedCompositeFieldContainer[Reference]
    def __init__(self, references: _Optional[_Iterable[_Union[Reference, _Mapping]]] = ...) -> None: ...

class StateRows(_message.Message):
    __slots__ = ("table", "columns", "rows")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    table: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, table: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("boolean", "integer", "number", "text", "data")
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    boolean: bool
    integer: int
    number: float
    text: str
    data: bytes
    def __init__(self, boolean: _Optional[bool] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class StateEnd(_message.Message):
    __slots__ = ("sha256", "num_rows")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    num_rows: int
    def __init__(self, sha256: _Optional[bytes] = ..., num_rows: _Optional[int] = ...) -> None: ...
