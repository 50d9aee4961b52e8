"""The tree of objects below a prefix of an S3 bucket."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from common.text_files import NotUtf8, read_secret
from deepseek.data.rejected import Rejected
from deepseek.interchange.packages import require
from deepseek.interchange.source import MAX_FILE_BYTES, Blob
from deepseek.interchange.tree import Listing, Tree, is_hidden

_PLACE = re.compile(
    r"s3\+(?P<scheme>https?)://(?P<endpoint>[^/?#@]+)/(?P<bucket>[^/?#]+)(?P<prefix>/[^?#]*)?(\?region=(?P<region>[^&#]+))?"
)
_MISSING = frozenset({"NoSuchKey", "NoSuchObject"})
_MEMORY_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20


class S3Tree(Tree):
    """The objects of a bucket, whose names are paths.

    Args:
        place: `s3+https://host/bucket/prefix`, `s3+http://host:port/bucket/prefix`, with `?region=NAME` if needed.
        access_key_file: File with the access key. None means an anonymous client, for public buckets.
        secret_key_file: File with the secret key.

    Raises:
        InvalidArgument: BAD_SOURCE.
        FailedPrecondition: STORE_KEYS_MISSING; PACKAGE_MISSING.
    """

    def __init__(self, place: str, access_key_file: Path | None, secret_key_file: Path | None) -> None:
        found = _PLACE.fullmatch(place)
        if not found:
            message = f"{place!r} is not an S3 prefix; use s3+https://host/bucket/prefix, without keys"
            raise InvalidArgument("BAD_SOURCE", message, field="source")
        minio, urllib3 = require("minio", "S3 prefixes"), require("urllib3", "S3 prefixes")
        self._place, self._bucket = place, found["bucket"]
        prefix = (found["prefix"] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        try:
            self._client = minio.Minio(
                found["endpoint"],
                access_key=_key(access_key_file, "access"),
                secret_key=_key(secret_key_file, "secret"),
                secure=found["scheme"] == "https",
                region=found["region"],
                http_client=urllib3.PoolManager(
                    timeout=urllib3.Timeout(connect=5, read=30),
                    retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
                ),
            )
        except ValueError as error:
            raise InvalidArgument("BAD_SOURCE", f"{place!r} is not an S3 prefix: {error}", field="source") from error

    def list(self, folder: str = "") -> Listing:
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        folders, files, rejected = [], [], []
        with self._errors():
            for one in self._client.list_objects(self._bucket, prefix=prefix, recursive=False):
                path = cast(str, one.object_name).removeprefix(self._prefix)
                name = cast(str, one.object_name).removeprefix(prefix).removesuffix("/")
                if one.object_name == prefix or (name and is_hidden(name)):
                    continue
                if not name:
                    message = f"{path!r} is not the path of a file; rename the objects whose names begin like this"
                    rejected.append(Rejected(path, path, "BAD_FILE_NAME", message))
                elif path.endswith("/"):
                    folders.append(path.removesuffix("/"))
                else:
                    files.append(self._blob(path, one.size))
        return Listing(sorted(folders), sorted(files, key=lambda blob: blob.name), rejected)

    def file(self, name: str) -> Blob:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            message = f"names the file {name[:80]!r}; only objects below {self._place} are read"
            raise InvalidArgument("BAD_FILE_NAME", message)
        minio = require("minio.error", "S3 prefixes")
        with self._errors():
            try:
                size = self._client.stat_object(self._bucket, self._prefix + name).size
            except minio.S3Error as error:
                if error.code not in _MISSING:
                    raise
                message = f"names the file {name[:80]!r}, which is not below {self._place}"
                raise InvalidArgument("FILE_NOT_FOUND", message) from error
        return self._blob(name, size)

    def open(self, path: str) -> BinaryIO:
        file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115  # closed by the caller
        with self._errors(), self._response(path) as response:
            for chunk in response.stream(_CHUNK_BYTES):
                file.write(chunk)
        file.seek(0)
        return cast(BinaryIO, file)

    def _blob(self, path: str, size: int) -> Blob:
        return Blob(path, size, self._reader(path))

    def _reader(self, path: str) -> Callable[[], bytes]:
        def read() -> bytes:
            with self._errors(), self._response(path) as response:
                return cast(bytes, response.read(MAX_FILE_BYTES))

        return read

    @contextmanager
    def _response(self, path: str) -> Iterator[Any]:
        response = self._client.get_object(self._bucket, self._prefix + path)
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        minio, urllib3 = require("minio.error", "S3 prefixes"), require("urllib3", "S3 prefixes")
        try:
            yield
        except minio.S3Error as error:
            if error.code in _MISSING:
                message = f"{error.object_name} no longer exists in {self._place}"
                raise InvalidArgument("FILE_NOT_FOUND", message) from error
            message = f"{self._place} cannot be read: {error.code}; check the bucket and the keys"
            raise FailedPrecondition("SOURCE_ACCESS_DENIED", message, field="source") from error
        except (minio.MinioException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable("SOURCE_UNREACHABLE", f"{self._place} is unavailable: {error}", field="source") from error


def _key(path: Path | None, kind: str) -> str | None:
    """Returns the key in a file, read in the same way as the keys of the artifact store."""
    if path is None:
        return None
    try:
        return read_secret(path)
    except (OSError, NotUtf8) as error:
        message = f"the {kind} key cannot be read from {path}: {error}"
        raise FailedPrecondition("STORE_KEYS_MISSING", message, field=f"{kind}_key_file") from error
