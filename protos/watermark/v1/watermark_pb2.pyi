import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.auth.v1 import auth_pb2 as _auth_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]

class TextScheme(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_SCHEME_UNSPECIFIED: _ClassVar[TextScheme]
    TEXT_SCHEME_GUMBEL: _ClassVar[TextScheme]
    TEXT_SCHEME_KGW: _ClassVar[TextScheme]
    TEXT_SCHEME_SYNTHID: _ClassVar[TextScheme]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_MARKED: _ClassVar[Verdict]
    VERDICT_NOT_MARKED: _ClassVar[Verdict]
    VERDICT_INCONCLUSIVE: _ClassVar[Verdict]

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_ACTIVE: _ClassVar[KeyState]
    KEY_STATE_RETIRED: _ClassVar[KeyState]
    KEY_STATE_REVOKED: _ClassVar[KeyState]
MODALITY_UNSPECIFIED: Modality
MODALITY_TEXT: Modality
MODALITY_IMAGE: Modality
TEXT_SCHEME_UNSPECIFIED: TextScheme
TEXT_SCHEME_GUMBEL: TextScheme
TEXT_SCHEME_KGW: TextScheme
TEXT_SCHEME_SYNTHID: TextScheme
VERDICT_UNSPECIFIED: Verdict
VERDICT_MARKED: Verdict
VERDICT_NOT_MARKED: Verdict
VERDICT_INCONCLUSIVE: Verdict
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_ACTIVE: KeyState
KEY_STATE_RETIRED: KeyState
KEY_STATE_REVOKED: KeyState

class Key(_message.Message):
    __slots__ = ("modality", "epoch", "state", "create_time", "revoke_time", "name")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    epoch: int
    state: KeyState
    create_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    name: str
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., epoch: _Optional[int] = ..., state: _Optional[_Union[KeyState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: int
    top: int
    right: int
    bottom: int
    def __init__(self, left: _Optional[int] = ..., top: _Optional[int] = ..., right: _Optional[int] = ..., bottom: _Optional[int] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "end", "watermark")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    watermark: str
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., watermark: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("log_p", "epoch", "num_scored", "angle_degrees", "scale")
    LOG_P_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_SCORED_FIELD_NUMBER: _ClassVar[int]
    ANGLE_DEGREES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    log_p: float
    epoch: int
    num_scored: int
    angle_degrees: float
    scale: float
    def __init__(self, log_p: _Optional[float] = ..., epoch: _Optional[int] = ..., num_scored: _Optional[int] = ..., angle_degrees: _Optional[float] = ..., scale: _Optional[float] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("verdict", "p", "watermark", "region", "spans", "evidence")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    p: float
    watermark: str
    region: Region
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    evidence: Evidence
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., p: _Optional[float] = ..., watermark: _Optional[str] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "reason", "message", "field", "retry_delay")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    field: str
    retry_delay: _duration_pb2.Duration
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class MarkImageRequest(_message.Message):
    __slots__ = ("image", "model_version", "min_psnr_db", "encoding_quality", "request_id")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_PSNR_DB_FIELD_NUMBER: _ClassVar[int]
    ENCODING_QUALITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model_version: str
    min_psnr_db: float
    encoding_quality: int
    request_id: str
    def __init__(self, image: _Optional[bytes] = ..., model_version: _Optional[str] = ..., min_psnr_db: _Optional[float] = ..., encoding_quality: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class MarkImageResponse(_message.Message):
    __slots__ = ("image", "watermark", "psnr_db", "ssim")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    PSNR_DB_FIELD_NUMBER: _ClassVar[int]
    SSIM_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    watermark: str
    psnr_db: float
    ssim: float
    def __init__(self, image: _Optional[bytes] = ..., watermark: _Optional[str] = ..., psnr_db: _Optional[float] = ..., ssim: _Optional[float] = ...) -> None: ...

class MarkImagesRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: MarkImageRequest
    def __init__(self, request: _Optional[_Union[MarkImageRequest, _Mapping]] = ...) -> None: ...

class MarkImagesResponse(_message.Message):
    __slots__ = ("response", "failure")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    response: MarkImageResponse
    failure: Failure
    def __init__(self, response: _Optional[_Union[MarkImageResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class DetectImageRequest(_message.Message):
    __slots__ = ("image", "locate", "aligned_only")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LOCATE_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_ONLY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    locate: bool
    aligned_only: bool
    def __init__(self, image: _Optional[bytes] = ..., locate: _Optional[bool] = ..., aligned_only: _Optional[bool] = ...) -> None: ...

class DetectImageResponse(_message.Message):
    __slots__ = ("detection",)
    DETECTION_FIELD_NUMBER: _ClassVar[int]
    detection: Detection
    def __init__(self, detection: _Optional[_Union[Detection, _Mapping]] = ...) -> None: ...

class DetectImagesRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: DetectImageRequest
    def __init__(self, request: _Optional[_Union[DetectImageRequest, _Mapping]] = ...) -> None: ...

class DetectImagesResponse(_message.Message):
    __slots__ = ("response", "failure")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    response: DetectImageResponse
    failure: Failure
    def __init__(self, response: _Optional[_Union[DetectImageResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class MarkTokensConfig(_message.Message):
    __slots__ = ("scheme", "model_version", "request_id")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    scheme: TextScheme
    model_version: str
    request_id: str
    def __init__(self, scheme: _Optional[_Union[TextScheme, str]] = ..., model_version: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Logits(_message.Message):
    __slots__ = ("sequence", "values", "tokens")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    values: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequence: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class MarkTokensRequest(_message.Message):
    __slots__ = ("config", "logits")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    config: MarkTokensConfig
    logits: Logits
    def __init__(self, config: _Optional[_Union[MarkTokensConfig, _Mapping]] = ..., logits: _Optional[_Union[Logits, _Mapping]] = ...) -> None: ...

class MarkTokensResponse(_message.Message):
    __slots__ = ("watermark", "sequence", "token")
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    watermark: str
    sequence: int
    token: int
    def __init__(self, watermark: _Optional[str] = ..., sequence: _Optional[int] = ..., token: _Optional[int] = ...) -> None: ...

class DetectTextRequest(_message.Message):
    __slots__ = ("tokens", "scheme", "whole_only", "model_version")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    WHOLE_ONLY_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    scheme: TextScheme
    whole_only: bool
    model_version: str
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., scheme: _Optional[_Union[TextScheme, str]] = ..., whole_only: _Optional[bool] = ..., model_version: _Optional[str] = ...) -> None: ...

class DetectTextResponse(_message.Message):
    __slots__ = ("detection",)
    DETECTION_FIELD_NUMBER: _ClassVar[int]
    detection: Detection
    def __init__(self, detection: _Optional[_Union[Detection, _Mapping]] = ...) -> None: ...

class DetectTextsRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: DetectTextRequest
    def __init__(self, request: _Optional[_Union[DetectTextRequest, _Mapping]] = ...) -> None: ...

class DetectTextsResponse(_message.Message):
    __slots__ = ("response", "failure")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    response: DetectTextResponse
    failure: Failure
    def __init__(self, response: _Optional[_Union[DetectTextResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("modality", "page_size", "page_token")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    page_size: int
    page_token: str
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("modality", "request_id")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    request_id: str
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RotateKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("modality", "epoch")
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    modality: Modality
    epoch: int
    def __init__(self, modality: _Optional[_Union[Modality, str]] = ..., epoch: _Optional[int] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...
