"""Calls from short-lived processes to one persistent worker on the same machine, over a Unix socket.

A Flower node starts one process per message. Such a process must start quickly, so it passes its task on to a worker
that keeps torch, the data and the model in memory. The first caller starts the worker; a file lock ensures that there
is only one. A connection carries the worker's greeting, and then one request and its reply (`worker_frames`). Calls are
executed one at a time, and nothing is retried once the worker has accepted a request. This module imports no large
package.
"""

import contextlib
import fcntl
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from common import unix_sockets
from common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    Unavailable,
)
from common.files import disk_error
from common.processes import Process, bounding_log, die_with, spawn
from deepseek.federated.worker_frames import MAX_ARRAYS_BYTES, Header, receive, send

_logger = logging.getLogger(__name__)

IDLE_S = 900.0
"""Default time without a request after which a worker ends, in seconds."""

START_TIMEOUT_S = 120.0
"""Longest time from the start of a worker until it accepts connections, in seconds."""

LOG_FILE = "worker.log"
"""File in the work folder that receives the output of a worker."""

_SOCKET = "worker.sock"
_GREETING = b"DSWORK1\n"
_POLL_INTERVAL_S = 0.02
_TAKEOVER_S = 10.0
_CHECK_INTERVAL_S = 1.0

Handler = Callable[[Header, bytes], tuple[Header, bytes]]
Starter = Callable[[Path], Process]
"""Function that starts a worker. It receives the file to which the worker's output is appended."""


def _never() -> None:
    """Does not interrupt a call."""


class _NobodyListens(Exception):
    """No worker has accepted the connection, so nothing was started and the call may be repeated."""


def detached(argv: Sequence[str]) -> Starter:
    """Returns a function that starts a worker, which continues to run after its caller has ended.

    Args:
        argv: Program and arguments. The program must call `serve`.
    """

    def start(log: Path) -> Process:
        process = spawn(argv, env=None, log=log, detach=True)
        _detached.append(process)
        return process

    return start


_detached: list[Process] = []
"""Workers that were started. They are kept, because a dropped `Popen` warns if its process still runs."""


def call(
    work_folder: Path,
    header: Mapping[str, Any],
    arrays: bytes,
    *,
    start: Starter,
    max_reply_bytes: int = MAX_ARRAYS_BYTES,
    timeout_s: float = math.inf,
    check: Callable[[], None] = _never,
) -> tuple[Header, bytes]:
    """Sends a request to the worker of a folder and waits for the reply. Starts the worker if it is not running.

    Args:
        work_folder: The folder of the worker; created if missing.
        header: JSON object of at most `MAX_HEADER_BYTES`. If it has `supernode_pid`, the worker ends as soon as that
            process ends.
        arrays: Safetensors bytes; may be empty.
        start: Starts the worker, see `detached`.
        max_reply_bytes: Largest arrays of a reply, in bytes.
        timeout_s: Seconds within which a worker that is already running must reply. If it does not, it still continues
            to run.
        check: Called about every second while the call waits for the worker. It raises an error to end the call.

    Returns:
        Header and arrays of the reply. The header has the key `error` if the request failed; see `raise_if_error`.

    Raises:
        Unavailable: WORKER_NOT_STARTED, or WORKER_DIED if the worker ended before it replied.
        DeadlineExceeded: WORKER_STUCK if the worker has not replied within `timeout_s`.
        ResourceExhausted: OVERSIZED if the reply is larger than allowed; it was not read.
        FailedPrecondition: WORK_FOLDER_NOT_PRIVATE, or SOCKET_PATH_TOO_LONG on systems other than Linux.
    """
    folder = _private(work_folder)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with _connect(folder, wait := _waiter(timeout_s, check)) as (connection, stream):
                return _exchange(connection, stream, header, arrays, max_reply_bytes, folder, wait)
        except TimeoutError as error:
            message = f"the worker has not replied within {timeout_s:g} s; see {folder / LOG_FILE}"
            raise DeadlineExceeded("WORKER_STUCK", message) from error
        except _NobodyListens:
            # A worker that keeps ending before it accepts a connection must not be restarted forever.
            if time.monotonic() > deadline:
                message = f"the worker does not accept requests after {START_TIMEOUT_S:g} s; see {folder / LOG_FILE}"
                raise Unavailable("WORKER_NOT_STARTED", message) from None
            _start(folder, start)


def serve(
    work_folder: Path,
    handle: Handler,
    *,
    idle_s: float = IDLE_S,
    max_request_bytes: int = MAX_ARRAYS_BYTES,
) -> None:
    """Answers requests, one at a time, until there has been none for `idle_s` seconds. Bounds the log of the worker.

    An error of the mesh that `handle` raises becomes the reply's `error`. Any other exception ends the worker: its
    caller receives WORKER_DIED, and the next caller starts a new worker.

    Args:
        work_folder: The folder of the worker; created if missing.
        handle: Receives header and arrays of a request and returns those of the reply.
        idle_s: Time without a request after which this function returns, in seconds.
        max_request_bytes: Largest arrays of a request, in bytes.

    Raises:
        FailedPrecondition: WORKER_RUNNING if another worker serves this folder; WORK_FOLDER_NOT_PRIVATE or
            SOCKET_PATH_TOO_LONG.
    """
    folder = _private(work_folder)
    watched: set[int] = set()
    with _only_worker(folder), bounding_log(folder / LOG_FILE), _listener(folder) as listener:
        listener.settimeout(idle_s)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                return
            # Not closed if `handle` raises, so that the caller notices only after the traceback has been written.
            with contextlib.suppress(ConnectionError):  # the caller has ended
                _answer(connection, handle, max_request_bytes, watched)
            connection.close()


def _answer(connection: socket.socket, handle: Handler, max_request_bytes: int, watched: set[int]) -> None:
    connection.settimeout(None)
    connection.sendall(_GREETING)
    try:
        with connection.makefile("rb") as stream:
            header, arrays = receive(stream, max_request_bytes)
        pid = header.get("supernode_pid")
        if isinstance(pid, int) and pid not in watched:
            watched.add(pid)
            die_with(pid)
        reply = handle(header, arrays)
    except MeshError as error:
        # With privacy, the coordinator keeps the message secret, so this is where the owner of the node reads it.
        _logger.warning("%s refused: %s: %s", time.strftime("%Y-%m-%d %H:%M:%S"), error.reason, error.message)
        reply = {"error": {"reason": error.reason, "message": error.message, "field": error.field}}, b""
    send(connection, *reply)


def raise_if_error(header: Mapping[str, Any]) -> None:
    """Raises the error of a reply, if it has one.

    Raises:
        FailedPrecondition: The worker's reason, message and field.
    """
    if error := header.get("error"):
        raise FailedPrecondition(str(error["reason"]), str(error["message"]), field=str(error.get("field", "")))


def _private(work_folder: Path) -> Path:
    """Creates a folder if it is missing, and ensures that no other user can use it."""
    try:
        work_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = work_folder.stat()
        if status.st_uid != os.getuid():
            message = f"{work_folder} belongs to another user; choose a work folder of your own"
            raise FailedPrecondition("WORK_FOLDER_NOT_PRIVATE", message, field="work_folder")
        if status.st_mode & 0o077:
            work_folder.chmod(0o700)
    except OSError as error:
        raise disk_error(error, work_folder) from error
    return work_folder.absolute()


@contextlib.contextmanager
def _connect(folder: Path, wait: Callable[[socket.socket], None]) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """Yields a connection that a worker has accepted."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            unix_sockets.connect(connection, folder / _SOCKET)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise _NobodyListens from error
        with connection.makefile("rb") as stream:
            try:
                wait(connection)
                greeting = stream.read(len(_GREETING))
            except ConnectionError as error:
                raise _NobodyListens from error
            if not greeting:  # the worker ended while the connection was waiting for it
                raise _NobodyListens
            if greeting != _GREETING:
                message = f"the worker of {folder} is of another version; end it and try again"
                raise FailedPrecondition("WORKER_VERSION", message)
            yield connection, stream


def _waiter(timeout_s: float, check: Callable[[], None]) -> Callable[[socket.socket], None]:
    """Returns a function that waits until there is something to read; TimeoutError once the time is over."""
    end = time.monotonic() + timeout_s

    def wait(connection: socket.socket) -> None:
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(min(_CHECK_INTERVAL_S, left))
            try:
                connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                check()
                continue
            connection.settimeout(None if math.isinf(left) else left)
            return
        raise TimeoutError

    return wait


def _exchange(
    connection: socket.socket,
    stream: BinaryIO,
    header: Mapping[str, Any],
    arrays: bytes,
    max_reply_bytes: int,
    folder: Path,
    wait: Callable[[socket.socket], None],
) -> tuple[Header, bytes]:
    try:
        with contextlib.suppress(BrokenPipeError):  # the worker has refused the request, and its reply says why
            send(connection, header, arrays)
        wait(connection)
        return receive(stream, max_reply_bytes)
    except ConnectionError as error:
        message = f"the worker ended before it replied: {_last_line(folder)}"
        raise Unavailable("WORKER_DIED", message) from error


def _start(folder: Path, start: Starter) -> None:
    """Starts a worker unless another process does so, and waits until the worker accepts connections."""
    with (folder / "start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _listens(folder):
            return
        process = start(folder / LOG_FILE)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(folder):
            if (status := process.poll()) is not None:
                message = f"the worker ended with status {status}: {_last_line(folder)}"
                raise Unavailable("WORKER_NOT_STARTED", message)
            if time.monotonic() > deadline:
                message = f"the worker is not ready after {START_TIMEOUT_S:g} s; see {folder / LOG_FILE}"
                raise Unavailable("WORKER_NOT_STARTED", message)
            time.sleep(_POLL_INTERVAL_S)


def _listens(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            unix_sockets.connect(connection, folder / _SOCKET)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


@contextlib.contextmanager
def _only_worker(folder: Path) -> Iterator[None]:
    """Holds the lock of the worker of a folder. Waits a moment, because the previous worker may be about to end."""
    with (folder / "worker.lock").open("a") as lock:
        deadline = time.monotonic() + _TAKEOVER_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another worker serves {folder}; choose another work folder"
                    raise FailedPrecondition("WORKER_RUNNING", message, field="work_folder") from None
                time.sleep(_POLL_INTERVAL_S)
        yield


@contextlib.contextmanager
def _listener(folder: Path) -> Iterator[socket.socket]:
    path = folder / _SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        unix_sockets.bind(listener, path)  # replaces that of a worker that was killed: the caller holds the lock
        listener.listen(16)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _last_line(folder: Path) -> str:
    """Returns the last line that a worker wrote, which is the message of the exception that ended it."""
    try:
        with (folder / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it wrote no output"
