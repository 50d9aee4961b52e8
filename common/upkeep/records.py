"""Lists of the blobs that garbage collection deletes: one list before the deletion, and one after it.

Each list is a blob in a separate store beside the audit log, with one digest per line, so that `grep -r` finds a
deleted blob. The list's digest is part of the record in the audit log, so the log's hash chain covers the list.
Repeating a call creates no second list. If a client crashes, its begin record has no end record. In that case, any of
the listed blobs, but no others, may have been deleted. An end record is not compared with its begin record, which may
be in the folder of another replica.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from common.artifacts import check_sha256
from common.artifacts.directory import DirectoryStore
from common.errors import InvalidArgument
from common.names import parse

MAX_DIGESTS = 10_000
"""Maximum number of digests per list."""

# Even with the longest tenant and numbers, the names that `begin` and `end` return are short enough for the audit log.
_COLLECTION = re.compile(r"tenants/([^/]+)/collections/([0-9a-f]{64})/blobs/\d+/bytes/\d+")


class CollectionRecords:
    """The lists of one service. Thread-safe; several processes may share a folder.

    Args:
        folder: Folder of the lists. A missing folder is created.
    """

    def __init__(self, folder: Path) -> None:
        self._lists = DirectoryStore(folder)

    def begin(self, parent: str, digests: Iterable[str], num_bytes: int) -> str:
        """Stores the list of blobs that are about to be deleted.

        Args:
            parent: `tenants/<id>`.
            digests: Digests of the blobs.
            num_bytes: Total size of the blobs.

        Returns:
            The name of the record:
            `tenants/<id>/collections/<SHA-256 of the list>/blobs/<number>/bytes/<number>`.

        Raises:
            InvalidArgument: BAD_NAME, BAD_DIGEST, BAD_VALUE.
            MeshError: The list cannot be written, e.g. STORE_FULL. The client must not delete any blob.
        """
        (tenant,) = parse(parent, "tenants/{}", field="parent")
        return self._store_list(f"{parent}/collections", tenant, digests, num_bytes)

    def end(self, parent: str, digests: Iterable[str], num_bytes: int) -> str:
        """Stores the list of blobs that were deleted.

        Args:
            parent: Return value of `begin`.
            digests: Digests of the deleted blobs.
            num_bytes: Total size of the deleted blobs.

        Returns:
            The name of the record:
            `tenants/<id>/collections/<as in parent>/gone/<SHA-256 of the list>/blobs/<number>/bytes/<number>`.

        Raises:
            MeshError: See `begin`.
        """
        match = _COLLECTION.fullmatch(parent)
        if not match:
            raise InvalidArgument("BAD_NAME", "parent must be a name that BeginCollection returned", field="parent")
        tenant, collection = match.groups()
        return self._store_list(f"tenants/{tenant}/collections/{collection}/gone", tenant, digests, num_bytes)

    def _store_list(self, prefix: str, tenant: str, digests: Iterable[str], num_bytes: int) -> str:
        unique = sorted({check_sha256(digest, field="digests") for digest in digests})
        if len(unique) > MAX_DIGESTS:
            raise InvalidArgument(
                "BAD_VALUE", f"the call has {len(unique)} digests; at most {MAX_DIGESTS} are allowed", field="digests"
            )
        if num_bytes < 0:
            raise InvalidArgument("BAD_VALUE", f"num_bytes is {num_bytes}; it must not be negative", field="num_bytes")
        kept = self._lists.put(tenant, "".join(f"{digest}\n" for digest in unique).encode(), "text/plain")
        return f"{prefix}/{kept.sha256}/blobs/{len(unique)}/bytes/{num_bytes}"
