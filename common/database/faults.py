"""What went wrong in an engine, in the mesh's words. Errors of our own statements are not translated: they are bugs."""

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from common.errors import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable

_BUSY = "busy"
_FULL = "full"
_READ_ONLY = "read-only"
_DAMAGED = "damaged"
_AWAY = "away"

_SQLITE = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _AWAY,
    sqlite3.SQLITE_IOERR: _AWAY,
}

# By SQLSTATE, or the first two of its characters, which are its class.
_POSTGRESQL = {
    "40": _BUSY,
    "55P03": _BUSY,
    "53100": _FULL,
    "53": _AWAY,
    "25006": _READ_ONLY,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    "08": _AWAY,
    "57": _AWAY,
    "28": _AWAY,
    "3D": _AWAY,
    "25P03": _AWAY,
}


def translate(error: DBAPIError, database: str) -> MeshError | None:
    """Returns the MeshError that an engine's error amounts to, None if it is not the engine's fault.

    Args:
        error: As SQLAlchemy raised it.
        database: The database's URL without its password, for the message.
    """
    if isinstance(error, IntegrityError):
        return None
    detail = str(error.orig).partition("\n")[0]
    match _kind(error):
        case "busy":
            return Unavailable("DATABASE_BUSY", f"{database} is busy: {detail}", retry_delay_s=1)
        case "full":
            return ResourceExhausted("DATABASE_FULL", f"no space left for {database}; free some")
        case "read-only":
            return FailedPrecondition("DATABASE_READ_ONLY", f"{database} takes no writes: {detail}")
        case "damaged":
            return DataLoss("DATABASE_DAMAGED", f"{database} is damaged: {detail}; restore it from a backup")
        case "away":
            return Unavailable("DATABASE_UNREACHABLE", f"{database} does not answer: {detail}", retry_delay_s=1)
    return None


def _kind(error: DBAPIError) -> str | None:
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the primary code. Errors of the driver itself have none.
        code = getattr(error.orig, "sqlite_errorcode", None)
        return None if code is None else _SQLITE.get(code & 0xFF)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return _AWAY if isinstance(error, OperationalError) or error.connection_invalidated else None
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
