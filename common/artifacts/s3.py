"""An artifact store in an S3 bucket, through the `minio` client.

S3 shows an object only once its upload is complete, which makes a put atomic; content is spooled locally first, in
memory while it is small, because an object cannot be renamed and its name is its digest. Parts of an upload that was
cut off are never visible; a bucket wants a lifecycle rule that drops them (AbortIncompleteMultipartUpload).

A blob's age is the object's LastModified, which copying it onto itself makes new. S3 has no locks and deletes on no
condition, so whoever deletes by age first puts a notice beside the blob, and only then looks at its age: a put that
comes too late to be seen there sees the notice, waits until it is gone, and looks whether the blob still is.

The operator of the S3 server creates the bucket. docs/operations.md lists the permissions that keys need.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import urllib3
from minio import Minio
from minio.commonconfig import REPLACE, CopySource
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from common.artifacts.artifact import Artifact
from common.artifacts.store import CHUNK_BYTES, FULL, ArtifactStore, Stored, blob_key
from common.auth.identity import shown_time
from common.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from common.names import new_id

CHECK_TIMEOUT_S = 2.0
"""Seconds that `check` waits for each answer: whoever probes wants to know soon, and asks again by himself."""

NOTICE_S = 60
"""Seconds after which a notice is void: who put it was killed. Half of it is all that its deletion may take."""

_NOTICES = ".expiring"  # no tenant's name starts with a dot
_NOTICE_POLL_S = 0.2
_MAX_PUTS = 3
_MEMORY_BYTES = 8 << 20
_PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_HTTP_INSUFFICIENT_STORAGE = 507

_MISSING = frozenset({"NoSuchKey", "NoSuchObject"})
_ACCESS_DENIED = "AccessDenied"
_REFUSED = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "InvalidToken"})
_OTHER_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_OTHER_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect"})
_DEFAULT_REGION = "us-east-1"
_PERMISSIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}
_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage"})
_READ_ONLY = frozenset({"MethodNotAllowed", "ObjectLocked"})


class S3Store(ArtifactStore):
    """Blobs as objects of one bucket.

    Args:
        endpoint: `host:port` of the S3 server.
        bucket: The bucket; it exists.
        access_key: S3 access key.
        secret_key: S3 secret key.
        secure: Whether to talk TLS.
        region: Region of the bucket. If empty, the server is asked (s3:GetBucketLocation); if it denies that, the
            region that it names in its refusal is used, or us-east-1.
        timeout_s: Seconds to wait for a connection, and for each answer.

    Raises:
        ValueError: The endpoint or the region is not valid.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        access_key: str,
        secret_key: str,
        secure: bool,
        region: str = "",
        timeout_s: float = 30,
    ) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=min(timeout_s, 5), read=timeout_s),
            maxsize=32,
            # A put of the same content is idempotent, so all calls may be repeated.
            retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        )
        impatient = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=min(timeout_s, CHECK_TIMEOUT_S), read=min(timeout_s, CHECK_TIMEOUT_S)),
            retries=urllib3.Retry(total=0),
        )
        self._client, self._checker = (
            _Client(
                endpoint,
                access_key=access_key,
                secret_key=secret_key,
                secure=secure,
                region=region or None,
                http_client=pool,
            )
            for pool in (http, impatient)
        )

    def check(self) -> None:
        """Returns if the server answers, takes our keys and has the bucket; asks once and briefly."""
        with self._errors():
            self._find_bucket(self._checker)

    def _find_bucket(self, client: Minio) -> None:
        # Unlike a HEAD request, a listing says what is wrong.
        next(iter(client.list_objects(self._bucket, prefix=".check")), None)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise self._translate(error) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            message = f"no space left for uploads in {tempfile.gettempdir()}; free some, or set TMPDIR"
            raise ResourceExhausted("STORE_FULL", message, field="store") from error

    def _translate(self, error: Exception) -> MeshError:
        where = f"the S3 store at {self._endpoint}"
        code = error.code if isinstance(error, S3Error) else None
        status = _status(error)
        if code == "NoSuchBucket":
            message = f"{where} has no bucket {self._bucket}; create it"
            return FailedPrecondition("STORE_BUCKET_MISSING", message, field="store")
        if code in _OTHER_REGION:
            message = f"{where} has {self._bucket} in another region; add ?region=NAME to store_url"
            told = cast(S3Error, error).message
            return FailedPrecondition("STORE_OTHER_REGION", f"{message} ({told or code})", field="store")
        if code in _OTHER_CLOCK:
            message = f"the clocks of {where} and of this machine differ; this one says {shown_time(datetime.now(UTC))}"
            return FailedPrecondition("STORE_ACCESS_DENIED", f"{message}. Synchronize both: {code}", field="store")
        if isinstance(error, _Denied):
            message = f"{where} denies our keys {error.permission} in the bucket {self._bucket}; grant it"
            return FailedPrecondition("STORE_ACCESS_DENIED", message, field="store")
        if code in _REFUSED or status in (401, 403):
            message = f"{where} refuses our keys: {code or status}"
            return FailedPrecondition("STORE_ACCESS_DENIED", message, field="store")
        if code in _FULL or status == _HTTP_INSUFFICIENT_STORAGE:
            return ResourceExhausted("STORE_FULL", f"no space left in {where}; free some", field="store")
        if code in _READ_ONLY:
            return FailedPrecondition("STORE_READ_ONLY", f"{where} takes no writes: {code}", field="store")
        what = code or status or type(error).__name__
        return Unavailable("STORE_UNREACHABLE", f"{where} does not answer: {what}", field="store", retry_delay_s=1)

    def _room(self) -> None:
        return None

    @contextlib.contextmanager
    def _spool(self) -> Iterator[BinaryIO]:
        with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as file:
            yield cast(BinaryIO, file)

    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        if self._holds(artifact.tenant, artifact.sha256, artifact.size_bytes):
            return
        for _ in range(_MAX_PUTS):
            file.seek(0)
            self._client.put_object(
                self._bucket,
                blob_key(artifact.tenant, artifact.sha256),
                file,
                artifact.size_bytes,
                content_type=artifact.media_type,
                part_size=max(_PART_BYTES, -(-artifact.size_bytes // _MAX_PARTS)),
            )
            if self._outlasts_notices(artifact.tenant, artifact.sha256):
                return
        raise Unavailable("STORE_UNREACHABLE", f"{artifact.sha256} is deleted whenever it is put", retry_delay_s=1)

    def _holds(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        with self._errors():
            if self._size(tenant, sha256) != size_bytes:
                return False
            key = blob_key(tenant, sha256)
            try:
                # Not a byte moves, but S3 wants the copy to differ in something.
                changed = {"x-amz-meta-put": str(time.time_ns())}
                source = CopySource(self._bucket, key)
                self._client.copy_object(self._bucket, key, source, metadata=changed, metadata_directive=REPLACE)
            except S3Error as error:
                if error.code in _MISSING:
                    return False
                raise
            return self._outlasts_notices(tenant, sha256)

    def _outlasts_notices(self, tenant: str, sha256: str) -> bool:
        """Waits while somebody who may not have seen our put is deleting the blob; tells whether it is there then."""
        deadline = time.monotonic() + NOTICE_S
        pending = self._notices(tenant, sha256)
        while pending and time.monotonic() < deadline:
            time.sleep(_NOTICE_POLL_S)
            # Who puts a notice only now will see the blob's new age.
            pending &= self._notices(tenant, sha256)
        for void in pending:
            self._client.remove_object(self._bucket, void)
        return self._size(tenant, sha256) is not None

    def _notices(self, tenant: str, sha256: str) -> set[str]:
        listed = self._client.list_objects(self._bucket, prefix=_notice(tenant, sha256))
        return {cast(str, one.object_name) for one in listed}

    def _open(self, tenant: str, sha256: str) -> Iterator[bytes]:
        try:
            response = self._client.get_object(self._bucket, blob_key(tenant, sha256))
        except S3Error as error:
            if error.code in _MISSING:
                raise self._not_found(tenant, sha256) from error
            raise
        try:
            yield from response.stream(CHUNK_BYTES)
        finally:
            response.close()
            response.release_conn()

    def _size(self, tenant: str, sha256: str) -> int | None:
        try:
            return cast(int, self._client.stat_object(self._bucket, blob_key(tenant, sha256)).size)
        except (S3Error, _Denied) as error:
            # The response to a HEAD request has no body, so it does not show whether bucket or object is missing, or
            # whether keys are wrong or lack a permission.
            self._find_bucket(self._client)
            if isinstance(error, _Denied) or error.code not in _MISSING:
                raise
        return None

    def tenants(self) -> Iterator[str]:
        with self._errors():
            for listed in self._client.list_objects(self._bucket):
                name = cast(str, listed.object_name)
                if listed.is_dir and not name.startswith("."):
                    yield name.rstrip("/")

    def _entries(self, tenant: str) -> Iterator[Stored]:
        prefix = f"{tenant}/sha256/"
        with self._errors():
            for listed in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                sha256 = cast(str, listed.object_name).rpartition("/")[2]
                yield Stored(sha256, cast(int, listed.size), _us(listed.last_modified))

    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        key, notice = blob_key(tenant, sha256), f"{_notice(tenant, sha256)}{new_id()}"
        deadline = time.monotonic() + NOTICE_S / 2
        self._client.put_object(self._bucket, notice, io.BytesIO(), 0)
        expired = False
        try:
            old = _us(self._client.stat_object(self._bucket, key).last_modified) < before_us
        except S3Error as error:
            if error.code not in _MISSING:
                raise
            old = False
        if old and time.monotonic() < deadline:
            # Once and briefly: nothing of it may still be under way when the notice is void. If it fails, it may have
            # been done or not, and so the notice stays until then.
            self._checker.remove_object(self._bucket, key)
            expired = True
        self._client.remove_object(self._bucket, notice)
        return expired

    def _delete(self, tenant: str, sha256: str) -> None:
        self._client.remove_object(self._bucket, blob_key(tenant, sha256))


class _Denied(MinioException):  # type: ignore[misc]
    """The server accepts our keys, but they lack a permission. Holds the bucket's region if the server named it."""

    def __init__(self, permission: str, region: str) -> None:
        super().__init__(permission)
        self.permission = permission
        self.region = region


class _Client(Minio):  # type: ignore[misc]  # the client has no type hints
    """A client that does not need permission to ask for a bucket's region, and reports which permission is missing."""

    def _get_region(self, bucket_name: str | None = None) -> str:
        try:
            return cast(str, super()._get_region(bucket_name))
        except _Denied as error:
            self._region_map[bucket_name] = error.region or _DEFAULT_REGION
            return cast(str, self._region_map[bucket_name])

    def _url_open(self, method: str, region: str, **request: Any) -> Any:
        try:
            return super()._url_open(method, region, **request)
        except S3Error as error:
            if error.code != _ACCESS_DENIED:
                raise
            permission = _permission(method, request.get("object_name"), request.get("query_params") or {})
            raise _Denied(permission, error.response.headers.get("x-amz-bucket-region", "")) from error


def _permission(method: str, object_name: str | None, query: Mapping[str, Any]) -> str:
    """Returns the IAM action of a request. Copies count as puts: their source has just been read."""
    if object_name is None:
        return "s3:GetBucketLocation" if "location" in query else "s3:ListBucket"
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    return _PERMISSIONS[method]


def _notice(tenant: str, sha256: str) -> str:
    return f"{_NOTICES}/{tenant}/{sha256}."


def _us(moment: datetime | None) -> int:
    assert moment is not None, "an object has a time"
    return round(moment.timestamp() * 1_000_000)


def _status(error: Exception) -> int | None:
    match error:
        case S3Error():
            return cast(int, error.response.status)
        case ServerError():
            return cast(int, error.status_code)
        case InvalidResponseError():
            return cast(int, error._code)  # the client offers no other way to it
        case _:
            return None
