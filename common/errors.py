"""The errors of the mesh.

Domain code raises these errors. An interceptor converts an error to a gRPC status with `ErrorInfo`, `BadRequest` and
`RetryInfo` details (`common.server`), and clients convert the status back to the same class (`common.channel`). A
message states the problem and the remedy. A reason is in UPPER_SNAKE_CASE, stable, and meant for programs. Messages and
reasons must not contain secrets.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

_CONTROLS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[^\n\t -~\x80-\U0010ffff]|[\x80-\x9f]"
)


def plain_text(text: str) -> str:
    """Returns a text without terminal escapes, and without control characters other than newlines and tabs.

    >>> plain_text("a \x1b[96m*model*\x1b[0m\r\n")
    'a *model*\n'
    """
    return _CONTROLS.sub("", text)


@dataclass(frozen=True)
class Violation:
    """An invalid field of a request.

    Attributes:
        field: Path of the field in the caller's notation, e.g. `spec.inputs[0].encoder.name`.
        description: Description of the problem.
    """

    field: str
    description: str


class MeshError(Exception):
    """An error that is reported to callers.

    Args:
        reason: Stable machine-readable reason, e.g. `DUPLICATE_KEY`.
        message: Problem and remedy, for people; passed through `plain_text`.
        field: Path of the offending field. Shorthand for one violation whose description is `message`.
        violations: Offending fields, if there are several.
        retry_delay_s: Seconds after which a retry makes sense; None if a retry does not help.
    """

    code: ClassVar[str] = "INTERNAL"
    """Name of the canonical gRPC status code."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str = "",
        violations: Sequence[Violation] = (),
        retry_delay_s: float | None = None,
    ) -> None:
        message = plain_text(message)
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = (Violation(field, message), *violations) if field else tuple(violations)
        self.retry_delay_s = retry_delay_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Allows other processes to receive the error."""
        return type(self), (self.reason, self.message), self.__dict__

    @property
    def field(self) -> str:
        """Path of the first offending field; empty if no field is at fault."""
        return self.violations[0].field if self.violations else ""

    def __str__(self) -> str:
        return f"{self.message} [{self.code}: {self.reason}]"


class InvalidArgument(MeshError):
    """The request is invalid, regardless of the state of the system."""

    code = "INVALID_ARGUMENT"


class NotFound(MeshError):
    """The requested resource does not exist for this caller."""

    code = "NOT_FOUND"


class AlreadyExists(MeshError):
    """The resource already exists, or a request id was reused for a different request."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(MeshError):
    """The system is not in the state that the call requires. A retry alone does not help."""

    code = "FAILED_PRECONDITION"


class Aborted(MeshError):
    """A concurrent change took precedence. Read the resource again and decide whether to retry."""

    code = "ABORTED"


class ResourceExhausted(MeshError):
    """A limit was reached, e.g. on streams, message size or disk space."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(MeshError):
    """A dependency is temporarily unavailable; retry with backoff."""

    code = "UNAVAILABLE"


class DeadlineExceeded(MeshError):
    """The call took longer than its deadline allows."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(MeshError):
    """The caller cancelled the call, or the owner cancelled the job."""

    code = "CANCELLED"


class PermissionDenied(MeshError):
    """The caller is authenticated but may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(MeshError):
    """The caller is not authenticated."""

    code = "UNAUTHENTICATED"


class Unimplemented(MeshError):
    """The server does not have this method."""

    code = "UNIMPLEMENTED"


class DataLoss(MeshError):
    """Stored bytes no longer match their digest."""

    code = "DATA_LOSS"


class Internal(MeshError):
    """There is a bug in the mesh."""

    code = "INTERNAL"


UNANSWERED = (Unavailable, DeadlineExceeded, Cancelled)
"""The errors of a call to another service that may have taken effect, and may succeed if it is repeated."""

ERROR_CLASSES: dict[str, type[MeshError]] = {cls.code: cls for cls in MeshError.__subclasses__()}
"""The error class for each canonical status code."""
