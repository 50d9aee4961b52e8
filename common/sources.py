"""Names of sources, i.e. of the resources that a version is made from. Their rules apply in the registry and in ingest.

Whether a source exists is known only to the service that owns it.
"""

import re
from collections.abc import Sequence

from common.errors import InvalidArgument

MAX_SOURCES = 128
MAX_SOURCE_BYTES = 256

_SEGMENT = r"[a-z0-9][a-z0-9._-]{0,62}"
_RESOURCE = re.compile(rf"{_SEGMENT}/{_SEGMENT}(/{_SEGMENT}/{_SEGMENT})*")


def check_sources(sources: Sequence[str]) -> None:
    """Checks the number and the length of the sources of a version.

    Raises:
        InvalidArgument: TOO_LARGE, with the field `sources` or `sources[<index>]`.
    """
    if len(sources) > MAX_SOURCES:
        message = f"the version has {len(sources)} sources; at most {MAX_SOURCES} are accepted"
        raise InvalidArgument("TOO_LARGE", message, field="sources")
    for index, source in enumerate(sources):
        if (num_bytes := len(source.encode())) > MAX_SOURCE_BYTES:
            message = f"the name has {num_bytes} bytes in UTF-8; at most {MAX_SOURCE_BYTES} are accepted"
            raise InvalidArgument("TOO_LARGE", message, field=f"sources[{index}]")


def check_resource(name: str, *, field: str) -> None:
    """Checks that a text has the form of a resource name.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    if not _RESOURCE.fullmatch(name):
        raise InvalidArgument(
            "BAD_NAME", f"{name!r} is not a resource name; resource names look like 'runs/<id>'", field=field
        )
