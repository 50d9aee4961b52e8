"""The errors of the mesh.

The domain raises these; one interceptor turns them into a gRPC status with `ErrorInfo`, `BadRequest` and `RetryInfo`
details (`common.server`), and clients turn such a status back into the same class (`common.channel`). A message says
what happened and what to do; a reason is stable, UPPER_SNAKE_CASE and made for programs. Neither may hold secrets.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

_CONTROLS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[^\n\t -~\x80-\U0010ffff]|[\x80-\x9f]"
)


def plain_text(text: str) -> str:
    """Returns a text from elsewhere (a child process, a library) without terminal escapes and control characters.

    >>> plain_text("a \x1b[96m*model*\x1b[0m\r\n")
    'a *model*\n'
    """
    return _CONTROLS.sub("", text)


@dataclass(frozen=True)
class Violation:
    """One field of a request that is wrong.

    Attributes:
        field: Path of the field as the caller wrote it, e.g. `spec.inputs[0].encoder.name`.
        description: What is wrong with it.
    """

    field: str
    description: str


class MeshError(Exception):
    """A failure that a caller can understand.

    Args:
        reason: Stable machine-readable reason, e.g. `DUPLICATE_KEY`.
        message: What happened and what to do, for people; passed through `plain_text`.
        field: Path of the offending field; shorthand for one violation with `message` as its description.
        violations: Every offending field, where there are several.
        retry_delay_s: Seconds after which trying again makes sense; None if it does not.
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

    @property
    def field(self) -> str:
        """Path of the first offending field; empty where none applies."""
        return self.violations[0].field if self.violations else ""

    def __str__(self) -> str:
        return f"{self.message} [{self.code}: {self.reason}]"


class InvalidArgument(MeshError):
    """The request is wrong whatever the state of the system."""

    code = "INVALID_ARGUMENT"


class NotFound(MeshError):
    """What was asked for does not exist for this caller."""

    code = "NOT_FOUND"


class AlreadyExists(MeshError):
    """What was to be made exists, or a request id came back with another body."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(MeshError):
    """The system is not in the state the call needs; repeating it does not help."""

    code = "FAILED_PRECONDITION"


class Aborted(MeshError):
    """A concurrent change won; read again and decide anew."""

    code = "ABORTED"


class ResourceExhausted(MeshError):
    """A limit was reached: streams, message size, disk."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(MeshError):
    """A part is away for the moment; try again with backoff."""

    code = "UNAVAILABLE"


class DeadlineExceeded(MeshError):
    """The call took longer than its caller wanted to wait."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(MeshError):
    """The caller, or the job's owner, asked to stop."""

    code = "CANCELLED"


class PermissionDenied(MeshError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(MeshError):
    """The caller is not known."""

    code = "UNAUTHENTICATED"


class Unimplemented(MeshError):
    """The server does not have this call."""

    code = "UNIMPLEMENTED"


class DataLoss(MeshError):
    """Stored bytes no longer match their digest."""

    code = "DATA_LOSS"


class Internal(MeshError):
    """A bug of ours."""

    code = "INTERNAL"


ERROR_CLASSES: dict[str, type[MeshError]] = {cls.code: cls for cls in MeshError.__subclasses__()}
"""The class of each canonical status code."""
