"""The file that holds the master secret, from which all keys are derived.

An attacker who has the secret can find, forge and remove every mark of every tenant. If the secret is lost, existing
marks can never be detected again. The secret is therefore kept in a file that only its owner can read, and that is
never replaced once a key has been derived from the secret.
"""

import codecs
import os
import re
import secrets
import stat
from pathlib import Path

from common.errors import FailedPrecondition
from common.files import create_file
from deepseek.watermark.keys import MIN_MASTER_BYTES

FILE_NAME = "watermark-master.key"
"""Default path of the file, relative to the service's home directory."""

_MAX_BYTES = 4096
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_HOW = "python -c 'import secrets; print(secrets.token_hex(32))'"


def read_master_key(path: Path) -> bytes:
    """Returns the master secret that a file contains.

    Args:
        path: File that contains a secret of at least 32 bytes, raw or in hexadecimal.

    Raises:
        FailedPrecondition: BAD_MASTER_KEY; the message states the remedy.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _bad(f"{path} does not exist; restore the master key, or create the first one with `{_HOW}`") from error
    except OSError as error:
        raise _bad(
            f"{path} cannot be read: {error.strerror}; it must belong to the user that runs the service"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _bad(f"{path} is accessible to users other than its owner (mode {mode:04o}); run `chmod 600 {path}`")
    if len(content) > _MAX_BYTES:
        raise _bad(f"{path} has more than {_MAX_BYTES} bytes, so it is not a master key; create one with `{_HOW}`")
    text = content.removeprefix(codecs.BOM_UTF8).strip()
    master = bytes.fromhex(text.decode()) if _HEX.fullmatch(text) else content
    if len(master) < MIN_MASTER_BYTES:
        message = (
            f"{path} has {len(master)} bytes; a master key has at least {MIN_MASTER_BYTES}. Create one with `{_HOW}`"
        )
        raise _bad(message)
    return master


def make_master_key(path: Path) -> None:
    """Creates a master secret unless one exists. If several processes do this at once, the first secret is kept.

    Raises:
        FailedPrecondition: BAD_MASTER_KEY if the file cannot be written.
    """
    try:
        create_file(path, f"{secrets.token_hex(MIN_MASTER_BYTES)}\n".encode())
    except OSError as error:
        raise _bad(f"{path} cannot be created: {error.strerror}") from error


def _bad(message: str) -> FailedPrecondition:
    return FailedPrecondition("BAD_MASTER_KEY", message, field="master_key_file")
