"""An artifact store in an S3 bucket, through the `minio` client. The operator of the S3 server creates the bucket.

An S3 object is visible only once its upload is complete, so a put is atomic. Content is spooled locally first, because
an object's name contains its digest, and objects cannot be renamed. A blob's age is the object's LastModified; copying
the object onto itself resets the age. S3 has neither locks nor conditional deletes, so deletion by age first writes a
notice object for the blob and then reads the blob's age. A put that resets the age after this read sees the notice,
waits until the notice is gone, and checks that the blob exists. For permissions and lifecycle, see docs/operations.md.
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
from common.artifacts.blob import CHUNK_BYTES, BlobInfo, blob_key
from common.artifacts.store import ArtifactStore
from common.auth.identity import shown_time
from common.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from common.files import FULL
from common.names import new_id

CHECK_TIMEOUT_S = 2.0
"""Seconds for which `check` waits for each response. Short, because a readiness check is repeated anyway."""

NOTICE_S = 60
"""Age in seconds at which a notice is void, because its writer must have been killed. A deletion that has not been sent
after half of this time is abandoned."""

_NOTICES = ".expiring"  # names of tenants do not start with a dot
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
    """A store that keeps each blob in an object of one bucket.

    Args:
        endpoint: `host:port` of the S3 server.
        bucket: Name of an existing bucket.
        access_key: S3 access key.
        secret_key: S3 secret key.
        secure: Whether to use TLS.
        region: Region of the bucket. If empty, the store queries the region (s3:GetBucketLocation). If the server
            denies the query, the store uses the region named in the error response or, without one, us-east-1.
        timeout_s: Seconds to wait for each response. The timeout for connecting is the same, but at most 5 s.

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
            # All calls may be retried. Even a put is idempotent, because an object's name determines its content.
            retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
        )
        brief = urllib3.PoolManager(
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
            for pool in (http, brief)
        )

    def check(self) -> None:
        """Checks, without retries, that the server responds, accepts the access key and has the bucket."""
        with self._errors():
            self._find_bucket(self._checker)

    def _find_bucket(self, client: Minio) -> None:
        # The error response to a listing states the cause, unlike that to a HEAD request.
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
            message = f"no space left for uploads in {tempfile.gettempdir()}; free some space, or set TMPDIR"
            raise ResourceExhausted("STORE_FULL", message, field="store") from error

    def _translate(self, error: Exception) -> MeshError:
        where = f"the S3 store at {self._endpoint}"
        code = error.code if isinstance(error, S3Error) else None
        status = _status(error)
        if code == "NoSuchBucket":
            message = f"{where} has no bucket {self._bucket}; create the bucket"
            return FailedPrecondition("STORE_BUCKET_MISSING", message, field="store")
        if code in _OTHER_REGION:
            message = f"{where} has the bucket {self._bucket} in another region; add ?region=NAME to store_url"
            detail = cast(S3Error, error).message
            return FailedPrecondition("STORE_OTHER_REGION", f"{message} ({detail or code})", field="store")
        if code in _OTHER_CLOCK:
            now = shown_time(datetime.now(UTC))
            message = f"the clocks of {where} and of this machine differ ({code}); this machine's clock says {now}"
            return FailedPrecondition("STORE_ACCESS_DENIED", f"{message}. Synchronize both clocks", field="store")
        if isinstance(error, _Denied):
            message = f"{where} denies {error.permission} in the bucket {self._bucket}; grant it to the access key"
            return FailedPrecondition("STORE_ACCESS_DENIED", message, field="store")
        if code in _REFUSED or status in (401, 403):
            message = f"{where} rejects the access key: {code or status}"
            return FailedPrecondition("STORE_ACCESS_DENIED", message, field="store")
        if code in _FULL or status == _HTTP_INSUFFICIENT_STORAGE:
            return ResourceExhausted("STORE_FULL", f"no space left in {where}; free some space", field="store")
        if code in _READ_ONLY:
            return FailedPrecondition("STORE_READ_ONLY", f"{where} is read-only: {code}", field="store")
        what = code or status or type(error).__name__
        return Unavailable("STORE_UNREACHABLE", f"{where} is unavailable: {what}", field="store", retry_delay_s=1)

    def _free_bytes(self) -> None:
        return None

    @contextlib.contextmanager
    def _spool(self) -> Iterator[BinaryIO]:
        with tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES) as file:
            yield cast(BinaryIO, file)

    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        if self._touch(artifact.tenant, artifact.sha256, artifact.size_bytes):
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
            if self._survives_deletions(artifact.tenant, artifact.sha256):
                return
        raise Unavailable(
            "STORE_UNREACHABLE",
            f"blob {artifact.sha256} was deleted after each of {_MAX_PUTS} attempts to store it; try again",
            retry_delay_s=1,
        )

    def _touch(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        with self._errors():
            if self._size(tenant, sha256) != size_bytes:
                return False
            key = blob_key(tenant, sha256)
            try:
                # The server copies the object onto itself, which S3 allows only if the metadata changes.
                changed = {"x-amz-meta-put": str(time.time_ns())}
                source = CopySource(self._bucket, key)
                self._client.copy_object(self._bucket, key, source, metadata=changed, metadata_directive=REPLACE)
            except S3Error as error:
                if error.code in _MISSING:
                    return False
                raise
            return self._survives_deletions(tenant, sha256)

    def _survives_deletions(self, tenant: str, sha256: str) -> bool:
        """Waits for deletions that may not have seen this put; returns whether the blob still exists."""
        deadline = time.monotonic() + NOTICE_S
        pending = self._notices(tenant, sha256)
        while pending and time.monotonic() < deadline:
            time.sleep(_NOTICE_POLL_S)
            # New notices are ignored: a deletion that starts now sees the blob's new age.
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
            # The response to a HEAD request has no body, so it does not distinguish a missing bucket from a missing
            # object, or wrong keys from a missing permission. A listing does.
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

    def _entries(self, tenant: str) -> Iterator[BlobInfo]:
        prefix = f"{tenant}/sha256/"
        with self._errors():
            for listed in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
                sha256 = cast(str, listed.object_name).rpartition("/")[2]
                yield BlobInfo(sha256, cast(int, listed.size), _us(listed.last_modified))

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
            # This client has no retries and a short timeout, so the request has ended before the notice becomes void.
            # If the request fails, the blob may or may not be deleted, so the notice remains until it is void.
            self._checker.remove_object(self._bucket, key)
            expired = True
        self._client.remove_object(self._bucket, notice)
        return expired

    def _delete(self, tenant: str, sha256: str) -> None:
        self._client.remove_object(self._bucket, blob_key(tenant, sha256))


class _Denied(MinioException):  # type: ignore[misc]
    """The access key is valid but lacks a permission. `region` is empty unless the server named the bucket's region."""

    def __init__(self, permission: str, region: str) -> None:
        super().__init__(permission)
        self.permission = permission
        self.region = region


class _Client(Minio):  # type: ignore[misc]  # the client has no type hints
    """A client that works without s3:GetBucketLocation, and whose errors name the permission that a request lacks."""

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
    """Returns the IAM permission that a denied request lacks.

    For a copy, this is s3:PutObject. A copy also requires s3:GetObject, but the access key has that permission, because
    the source has just been looked up.
    """
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
            return cast(int, error._code)  # the client has no public attribute for it
        case _:
            return None
