"""What is special about a store in S3: answers that a healthy server with a matching set-up never gives.

A server that is full, or that breaks off in the middle, cannot be had on demand, so a small HTTP server speaks for it.
Wrong keys and missing buckets are asked of a real one in tests/contracts.
"""

import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from common.artifacts.s3 import CHECK_TIMEOUT_S, S3Store
from common.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable

TENANT = "default"
CONTENT = b"blob"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers reads as an empty bucket would, and writes and blobs as the test wants."""

    put_answer: tuple[int, str] = (200, "")
    region = ""
    cut = False

    def do_GET(self) -> None:
        if self.cut and SHA256 in self.path:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:-1])
            self.close_connection = True
        elif "location" in self.path:
            self._xml(200, '<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LocationConstraint>')
        else:
            self._xml(
                200,
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
                "<IsTruncated>false</IsTruncated></ListBucketResult>",
            )

    def do_HEAD(self) -> None:
        self._xml(404, "")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, code = self.put_answer
        self._xml(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>")

    def _xml(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        if self.region:
            self.send_header("x-amz-bucket-region", self.region)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def answers() -> Iterator[tuple[type[_Answers], S3Store]]:
    handler = type("Answers", (_Answers,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, _store(f"127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def _store(endpoint: str) -> S3Store:
    return S3Store(endpoint, "bucket", access_key="key", secret_key="secret", secure=False, timeout_s=5)


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        ((507, "XMinioStorageFull"), ResourceExhausted, "STORE_FULL"),
        ((403, "AccessDenied"), FailedPrecondition, "STORE_ACCESS_DENIED"),
        ((403, "RequestTimeTooSkewed"), FailedPrecondition, "STORE_ACCESS_DENIED"),
        ((400, "AuthorizationHeaderMalformed"), FailedPrecondition, "STORE_OTHER_REGION"),
        ((405, "MethodNotAllowed"), FailedPrecondition, "STORE_READ_ONLY"),
        ((404, "NoSuchBucket"), FailedPrecondition, "STORE_BUCKET_MISSING"),
        ((503, "SlowDown"), Unavailable, "STORE_UNREACHABLE"),
        ((400, "SomethingNew"), Unavailable, "STORE_UNREACHABLE"),
    ],
)
def test_what_a_server_refuses_is_a_clear_error(
    answers: tuple[type[_Answers], S3Store], answer: tuple[int, str], error: type[MeshError], reason: str
) -> None:
    handler, store = answers
    handler.put_answer = answer

    with pytest.raises(error) as caught:
        store.put(TENANT, CONTENT, "text/plain")

    assert (caught.value.reason, caught.value.field) == (reason, "store")
    assert "secret" not in str(caught.value)


def test_a_store_with_another_clock_is_told_apart_from_wrong_keys(answers: tuple[type[_Answers], S3Store]) -> None:
    handler, store = answers
    handler.put_answer = 403, "RequestTimeTooSkewed"

    with pytest.raises(FailedPrecondition, match=r"this machine's clock says .* UTC\. Synchronize both"):
        store.put(TENANT, CONTENT, "text/plain")


def test_a_bucket_in_another_region_says_how_to_name_it(answers: tuple[type[_Answers], S3Store]) -> None:
    handler, store = answers
    handler.put_answer = 400, "AuthorizationHeaderMalformed"

    with pytest.raises(FailedPrecondition, match=r"add \?region=NAME to store_url \(no\)"):
        store.put(TENANT, CONTENT, "text/plain")


@pytest.mark.parametrize(
    ("given", "hint", "used"), [("", "", "us-east-1"), ("", "eu-west-1", "eu-west-1"), ("eu-north-1", "", "eu-north-1")]
)
def test_requests_are_signed_for_the_region_that_is_set_or_known(
    answers: tuple[type[_Answers], S3Store], given: str, hint: str, used: str
) -> None:
    """The region of keys that may not ask for it; AWS names it in a header of its refusal."""
    handler, _ = answers
    seen: list[str] = []

    def do_get(self: _Answers) -> None:
        seen.append(self.headers["Authorization"])
        if "location" in self.path:
            self.region = hint
            self._xml(403, "<Error><Code>AccessDenied</Code></Error>")
        else:
            _Answers.do_GET(self)

    handler.do_GET = do_get  # type: ignore[method-assign]
    store = S3Store(
        answers[1]._endpoint, "bucket", access_key="k", secret_key="s", secure=False, region=given, timeout_s=5
    )
    store.check()
    assert f"/{used}/s3/" in seen[-1]
    assert len(seen) == (1 if given else 2)


def test_a_blob_that_breaks_off_is_not_taken_for_whole(answers: tuple[type[_Answers], S3Store]) -> None:
    handler, store = answers
    handler.cut = True

    with pytest.raises(Unavailable) as caught:
        store.read(TENANT, SHA256)

    assert (caught.value.reason, caught.value.field) == ("STORE_UNREACHABLE", "store")


def test_a_server_that_is_away_is_a_clear_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = _store(f"127.0.0.1:{unused.getsockname()[1]}")

        with pytest.raises(Unavailable) as caught:
            store.check()

    assert (caught.value.reason, caught.value.field) == ("STORE_UNREACHABLE", "store")
    assert caught.value.retry_delay_s


def test_a_check_of_a_server_that_is_stuck_asks_once_and_gives_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        store = _store(f"127.0.0.1:{stuck.getsockname()[1]}")
        start_s = time.monotonic()

        with pytest.raises(Unavailable) as caught:
            store.check()

        assert (caught.value.reason, caught.value.field) == ("STORE_UNREACHABLE", "store")
        assert time.monotonic() - start_s < 2 * CHECK_TIMEOUT_S
        stuck.settimeout(0)
        stuck.accept()[0].close()
        with pytest.raises(BlockingIOError):
            stuck.accept()
