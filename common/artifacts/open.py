"""Opens an artifact store by its URL. The S3 client is imported only if the store is an S3 bucket."""

import re
from pathlib import Path
from urllib.parse import unquote

from common.artifacts.store import ArtifactStore
from common.errors import FailedPrecondition, InvalidArgument
from common.text_files import NotUtf8, read_secret

_DIRECTORY = re.compile(r"file://(localhost)?(?P<path>/[^?#]*)")
_BUCKET = re.compile(
    r"s3\+(?P<scheme>https?)://(?P<endpoint>[^/?#]+)/+(?P<bucket>[^/?#]+)/*(\?region=(?P<region>[^&#]+))?"
)


def open_store(
    url: str, *, access_key_file: Path | None = None, secret_key_file: Path | None = None, make: bool = True
) -> ArtifactStore:
    """Opens an artifact store.

    Args:
        url: `file:///absolute/path`, `s3+http://host:port/bucket` or `s3+https://host/bucket`. Append `?region=NAME`
            if the keys lack the permission to query the bucket's region (s3:GetBucketLocation).
        access_key_file: File with the S3 access key; used only for S3.
        secret_key_file: File with the S3 secret key; used only for S3.
        make: Whether to create a missing directory. Pass true in a service that owns the store, false elsewhere.

    Returns:
        The store. An S3 server is not contacted until the store is first used.

    Raises:
        InvalidArgument: BAD_STORE_URL.
        FailedPrecondition: STORE_KEYS_MISSING; STORE_READ_ONLY if a missing directory cannot be created.
        Unavailable: STORE_UNREACHABLE if the directory is missing and `make` is false.
    """
    if "@" in url and not url.startswith("file:"):
        message = "the store URL must not contain keys; write them to files, and pass the paths of those files"
        raise InvalidArgument("BAD_STORE_URL", message, field="store_url")
    try:
        if match := _DIRECTORY.fullmatch(url):
            from common.artifacts.directory import DirectoryStore

            return DirectoryStore(Path(unquote(match["path"])), make=make)
        if match := _BUCKET.fullmatch(url):
            from common.artifacts.s3 import S3Store

            return S3Store(
                match["endpoint"],
                match["bucket"],
                access_key=_secret(access_key_file, "access"),
                secret_key=_secret(secret_key_file, "secret"),
                secure=match["scheme"] == "https",
                region=match["region"] or "",
            )
    except ValueError as error:
        raise InvalidArgument("BAD_STORE_URL", f"{url!r} is not a store URL: {error}", field="store_url") from error
    raise InvalidArgument(
        "BAD_STORE_URL",
        f"{url!r} is not a store URL; use file:///path (with %3F for ? and %23 for #), s3+http://host:port/bucket or "
        "s3+https://host/bucket. Append ?region=NAME if the keys lack permission to query the bucket's region",
        field="store_url",
    )


def _secret(path: Path | None, kind: str) -> str:
    field = f"store_{kind}_key_file"
    if path is None:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"an S3 store requires the {kind} key; set {field}", field=field)
    try:
        secret = read_secret(path)
    except OSError as error:
        message = f"the {kind} key cannot be read from {path}: {error.strerror}"
        raise FailedPrecondition("STORE_KEYS_MISSING", message, field=field) from error
    except NotUtf8 as error:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"the {kind} key file {path} {error}", field=field) from error
    if not secret:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"{path} is empty; it must contain the {kind} key", field=field)
    return secret
