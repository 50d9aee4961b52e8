"""What garbage collections delete, on record before it is gone and again after it: a list of digests each time.

A list is a blob in a store of its own beside the audit log, one digest a line, so that `grep -r` finds a blob that is
gone. Its name, the digest of all of it, is part of the record in the audit log, whose hashes thereby cover it. The same
said twice makes no other list.

A client that dies in the middle leaves a beginning without its end: any of what that lists may be gone, nothing else.
An end is not compared with its beginning, which another process may have taken, in a home of its own.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from common.artifacts import check_sha256
from common.artifacts.directory import DirectoryStore
from common.errors import InvalidArgument
from common.names import parse

MAX_DIGESTS = 10_000
"""As many as one list has."""

# With the longest tenant and figures both names are just as long as what the audit log keeps of a name.
_BEGUN = re.compile(r"tenants/([^/]+)/collections/([0-9a-f]{64})/blobs/\d+/bytes/\d+")


class CollectionRecords:
    """The lists of one service. Thread-safe; processes may share a folder.

    Args:
        folder: Where they are kept; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._lists = DirectoryStore(folder)

    def begin(self, parent: str, digests: Iterable[str], num_bytes: int) -> str:
        """Keeps the list of what is about to be deleted.

        Args:
            parent: `tenants/<id>`.
            digests: Of the blobs.
            num_bytes: How many bytes they have together.

        Returns:
            `tenants/<id>/collections/<SHA-256 of the list>/blobs/<number>/bytes/<number>`.

        Raises:
            InvalidArgument: BAD_NAME, BAD_DIGEST, BAD_VALUE.
            MeshError: The list cannot be written, e.g. STORE_FULL: delete nothing.
        """
        (tenant,) = parse(parent, "tenants/{}", field="parent")
        return self._keep(f"{parent}/collections", tenant, digests, num_bytes)

    def end(self, parent: str, digests: Iterable[str], num_bytes: int) -> str:
        """Keeps the list of what has gone.

        Args:
            parent: What `begin` returned.
            digests: Of those blobs that have gone.
            num_bytes: How many bytes these had together.

        Returns:
            `tenants/<id>/collections/<as in parent>/gone/<SHA-256 of the list>/blobs/<number>/bytes/<number>`.

        Raises:
            MeshError: As `begin`.
        """
        match = _BEGUN.fullmatch(parent)
        if not match:
            raise InvalidArgument("BAD_NAME", "name the collection as BeginCollection did", field="parent")
        tenant, begun = match.groups()
        return self._keep(f"tenants/{tenant}/collections/{begun}/gone", tenant, digests, num_bytes)

    def _keep(self, prefix: str, tenant: str, digests: Iterable[str], num_bytes: int) -> str:
        unique = sorted({check_sha256(digest, field="digests") for digest in digests})
        if len(unique) > MAX_DIGESTS:
            raise InvalidArgument("BAD_VALUE", f"a list has at most {MAX_DIGESTS} digests", field="digests")
        if num_bytes < 0:
            raise InvalidArgument("BAD_VALUE", "a number of bytes is not negative", field="num_bytes")
        kept = self._lists.put(tenant, "".join(f"{digest}\n" for digest in unique).encode(), "text/plain")
        return f"{prefix}/{kept.sha256}/blobs/{len(unique)}/bytes/{num_bytes}"
