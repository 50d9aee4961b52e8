"""A local cache of shards, in a form from which any sample can be read quickly.

Parquet has to be decompressed in groups of rows. The cache therefore stores each shard as an uncompressed Arrow file,
which is memory-mapped: reading a sample then touches only the pages of that sample. Several processes can share a
cache. If the files exceed the budget, those that were opened least recently are deleted.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common.errors import DataLoss, FailedPrecondition
from common.files import disk_error
from deepseek.data.manifest import Field, Shard
from deepseek.data.shards import read_table

DEFAULT_CACHE_BYTES = 20 << 30


@dataclass(frozen=True)
class OpenShard:
    """A memory-mapped shard.

    Attributes:
        columns: The shard's columns, Arrow arrays by name.
        num_bytes: Size of the mapped file in bytes.
    """

    columns: dict[str, Any]
    num_bytes: int


class ShardCache:
    """Provides shards as memory-mapped files. Thread-safe.

    A child process created by `fork` can use the files that are in the cache, but cannot add any, because connections
    to a mesh do not survive a fork.

    Args:
        directory: Folder of the cache; created if missing. Only its owner can read it.
        fetch: Copies the shard with the given digest to a new file, and verifies the copy.
        max_bytes: Budget for the files of the cache. The shard in use is kept even if it is larger.
    """

    def __init__(
        self, directory: Path, fetch: Callable[[str, Path], object], *, max_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        self._directory = directory
        self._fetch = fetch
        self._max_bytes = max_bytes
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, directory) from error

    def open(self, shard: Shard, fields: Sequence[Field]) -> OpenShard:
        """Returns a shard; downloads it if it is not in the cache.

        Args:
            shard: The shard.
            fields: Schema of the shard.

        Raises:
            DataLoss: BLOB_DAMAGED if the shard is not what its manifest says.
            FailedPrecondition: SHARD_NOT_CACHED in a forked process.
            ResourceExhausted: DISK_FULL.
            MeshError: The shard cannot be fetched.
        """
        if (found := self._open.get(shard.sha256)) is not None:
            return found
        with self._lock:
            if (found := self._open.get(shard.sha256)) is not None:
                return found
            opened = self._mapped(shard.sha256) or self._added(shard, fields)
            self._open[shard.sha256] = opened
            while len(self._open) > 1 and sum(one.num_bytes for one in self._open.values()) > self._max_bytes:
                self._open.popitem(last=False)
            return opened

    def _mapped(self, sha256: str) -> OpenShard | None:
        """Opens a file of the cache; None if there is none, e.g. because another process has just deleted it."""
        import pyarrow as pa

        path = self._path(sha256)
        try:
            os.utime(path)
            source = pa.memory_map(str(path))
            table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid):  # a file cut short, e.g. by a power failure, is replaced
            return None
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        return OpenShard(columns, path.stat().st_size)

    def _added(self, shard: Shard, fields: Sequence[Field]) -> OpenShard:
        import pyarrow as pa

        sha256 = shard.sha256
        if os.getpid() != self._pid:
            message = f"the shard {sha256} is not in the cache, and a forked process cannot download it"
            hint = "call `download()` before you start workers, and check that the data set fits into `cache_bytes`"
            raise FailedPrecondition("SHARD_NOT_CACHED", f"{message}; {hint}")
        try:
            with TemporaryDirectory(dir=self._directory, prefix="tmp-") as folder:
                fetched, converted = Path(folder, "fetched"), Path(folder, "converted")
                self._fetch(sha256, fetched)
                table = read_table(fetched, fields).combine_chunks()
                if len(table) != shard.num_samples:
                    message = f"the shard has {len(table)} samples, not {shard.num_samples} as its manifest says"
                    raise DataLoss("BLOB_DAMAGED", message)
                with pa.OSFile(str(converted), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
                self._make_room(converted.stat().st_size)
                converted.replace(self._path(sha256))
        except OSError as error:
            raise disk_error(error, self._directory) from error
        opened = self._mapped(sha256)
        assert opened is not None, "the file was written a moment ago"
        return opened

    def _make_room(self, num_bytes: int) -> None:
        """Deletes the files that were opened least recently, so that a new file fits into the budget."""
        files = []
        for path in self._directory.glob("*.arrow"):
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = num_bytes + sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)  # who has mapped it keeps its pages
            total -= size

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.arrow"
