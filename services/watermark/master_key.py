"""The file that holds the master secret of all keys.

Who has it can find, forge and remove every mark of every tenant, and without it none is found ever again: it is read
from a file that its owner alone can read, and never replaced by a new one as long as a key was derived from it.
"""

import codecs
import os
import re
import secrets
import stat
from pathlib import Path

from common.errors import FailedPrecondition
from deepseek.watermark.keys import MIN_MASTER_BYTES

FILE_NAME = "watermark-master.key"
"""Where it is in home unless a setting says otherwise."""

_MAX_BYTES = 4096
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2})+")
_HOW = "python -c 'import secrets; print(secrets.token_hex(32))'"


def read_master_key(path: Path) -> bytes:
    """Reads a master secret.

    Args:
        path: Its file: at least 32 bytes, raw or as hexadecimal digits.

    Raises:
        FailedPrecondition: BAD_MASTER_KEY, with what to do.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _bad(f"{path} does not exist; put the master key back, or make the first one by `{_HOW}`") from error
    except OSError as error:
        raise _bad(f"{path} cannot be read: {error.strerror}; it belongs to the user that runs the service") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _bad(f"others than its owner may read or write {path} (mode {mode:04o}); run `chmod 600 {path}`")
    if len(content) > _MAX_BYTES:
        raise _bad(f"{path} has more than {_MAX_BYTES} bytes, so it is no master key; make one by `{_HOW}`")
    text = content.removeprefix(codecs.BOM_UTF8).strip()
    master = bytes.fromhex(text.decode()) if _HEX.fullmatch(text) else content
    if len(master) < MIN_MASTER_BYTES:
        message = (
            f"{path} holds {len(master)} bytes; {MIN_MASTER_BYTES} random ones are the least: make them by `{_HOW}`"
        )
        raise _bad(message)
    return master


def make_master_key(path: Path) -> None:
    """Makes a master secret, unless there is one: of several processes that do this one wins.

    Raises:
        FailedPrecondition: BAD_MASTER_KEY if it cannot be written.
    """
    # A name that nobody can put something at before.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(f"{secrets.token_hex(MIN_MASTER_BYTES)}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        finally:
            temporary.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _bad(f"{path} cannot be made: {error.strerror}") from error


def _bad(message: str) -> FailedPrecondition:
    return FailedPrecondition("BAD_MASTER_KEY", message, field="master_key_file")
