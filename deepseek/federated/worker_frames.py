"""How a request or a reply is sent to and from a worker.

It is an 8-byte big-endian length and a JSON header, and an 8-byte length and the arrays (safetensors bytes, which this
module does not read).
"""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from common.errors import InvalidArgument, ResourceExhausted

MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS_BYTES = 4 << 30
"""Default limit on the arrays of a request or reply, in bytes."""

_LENGTH = struct.Struct(">Q")

Header = dict[str, Any]


def send(connection: socket.socket, header: Mapping[str, Any], arrays: bytes) -> None:
    """Sends a header and arrays.

    Raises:
        ResourceExhausted: OVERSIZED if the header exceeds `MAX_HEADER_BYTES`.
        ConnectionError: The connection has ended.
    """
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ResourceExhausted("OVERSIZED", f"the header has {len(text)} bytes; the limit is {MAX_HEADER_BYTES}")
    connection.sendall(_LENGTH.pack(len(text)) + text + _LENGTH.pack(len(arrays)))
    connection.sendall(arrays)


def receive(stream: BinaryIO, max_arrays_bytes: int) -> tuple[Header, bytes]:
    """Receives a header and arrays.

    Raises:
        InvalidArgument: BAD_HEADER.
        ResourceExhausted: OVERSIZED; what is too large is not read.
        ConnectionError: The connection has ended.
    """
    try:
        header = json.loads(_read(stream, MAX_HEADER_BYTES, "header"))
    except ValueError as error:
        raise InvalidArgument("BAD_HEADER", f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise InvalidArgument("BAD_HEADER", "the header is not a JSON object")
    return header, _read(stream, max_arrays_bytes, "arrays")


def _read(stream: BinaryIO, limit: int, what: str) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > limit:
        raise ResourceExhausted("OVERSIZED", f"the {what} would have {length} bytes; the limit is {limit}")
    return _exactly(stream, length)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise ConnectionResetError("the connection ended")
    return content
