"""Errors of private runs. A message about training data may quote it, so only the reason of the error is published."""

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Aborted, DeadlineExceeded, MeshError, NotFound, ResourceExhausted, Unavailable
from deepseek.trainjob.runspec import RunSpec

_DETAILS_WITHHELD = (
    "training failed. The details are not published, because they may depend on private examples; train on data that "
    "is not private to see them"
)


@contextmanager
def withheld(spec: RunSpec) -> Iterator[None]:
    """Replaces the message of an error that a private run raises while it reads its training data.

    Errors of services and disks keep their message. They do not depend on the content of the data.

    Args:
        spec: Spec of the run. Without `privacy`, errors pass through unchanged.

    Raises:
        MeshError: The error of the `with` block, of the same class and with the same reason and field.
    """
    try:
        yield
    except (Aborted, DeadlineExceeded, NotFound, ResourceExhausted, Unavailable):
        raise
    except MeshError as error:
        if spec.privacy is None:
            raise
        raise type(error)(error.reason, _DETAILS_WITHHELD, field=error.field) from error
