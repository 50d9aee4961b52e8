"""From a URL to a store. S3 is imported only where it is used: a laptop needs no client for it."""

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
        url: `file:///absolute/path`, or `s3+http://host:port/bucket`, or `s3+https://...`. After a bucket,
            `?region=NAME` sets its region, for keys without the permission to ask for it (s3:GetBucketLocation).
        access_key_file: File that holds the S3 access key; S3 only.
        secret_key_file: File that holds the S3 secret key; S3 only.
        make: Make a directory that is missing; for whoever starts a store, not for whoever expects one.

    Returns:
        The store. S3 is not asked before its first use.

    Raises:
        InvalidArgument: BAD_STORE_URL.
        FailedPrecondition: STORE_KEYS_MISSING; STORE_READ_ONLY if a missing directory cannot be made.
        Unavailable: STORE_UNREACHABLE if a directory is missing and not to be made.
    """
    if "@" in url and not url.startswith("file:"):
        raise InvalidArgument(
            "BAD_STORE_URL", "keys must not be in the URL; name the files that hold them", field="store_url"
        )
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
        "s3+https://host/bucket, followed by ?region=NAME if the server cannot be asked for its region",
        field="store_url",
    )


def _secret(path: Path | None, kind: str) -> str:
    field = f"store_{kind}_key_file"
    if path is None:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"an S3 store needs {field}", field=field)
    try:
        secret = read_secret(path)
    except OSError as error:
        message = f"the {kind} key cannot be read from {path}: {error.strerror}"
        raise FailedPrecondition("STORE_KEYS_MISSING", message, field=field) from error
    except NotUtf8 as error:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"the {kind} key in {path} {error}", field=field) from error
    if not secret:
        raise FailedPrecondition("STORE_KEYS_MISSING", f"{path} is empty", field=field)
    return secret
