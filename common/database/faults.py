"""Translates errors of the database engines into MeshErrors.

Errors in our own statements, such as a violated constraint or invalid SQL, are bugs and are not translated. An unknown
error is reported as an unreachable database, because it is not the caller's fault and may be temporary.
"""

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from common.errors import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable

_BUSY = "busy"
_FULL = "full"
_READ_ONLY = "read-only"
_DAMAGED = "damaged"
_UNREACHABLE = "away"
_BUG = "bug"

_SQLITE = {
    sqlite3.SQLITE_ERROR: _BUG,
    sqlite3.SQLITE_MISUSE: _BUG,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PROTOCOL: _BUSY,
    sqlite3.SQLITE_SCHEMA: _BUSY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}

# Each key is a SQLSTATE, or the first two characters of one, which denote a class of errors.
_POSTGRESQL = {
    "40": _BUSY,
    "55P03": _BUSY,
    "57014": _BUSY,
    "53100": _FULL,
    "25006": _READ_ONLY,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    "42501": _UNREACHABLE,
}


def translate(error: DBAPIError, database: str) -> MeshError | None:
    """Returns the MeshError for an error of the engine; None for a bug in our statements.

    Args:
        error: Exception raised by SQLAlchemy.
        database: URL of the database, without password and query, to show in the message.
    """
    detail = str(error.orig).partition("\n")[0]
    match _kind(error):
        case "busy":
            return Unavailable("DATABASE_BUSY", f"{database} is busy: {detail}", retry_delay_s=1)
        case "full":
            return ResourceExhausted("DATABASE_FULL", f"no space left for {database}; free some space")
        case "read-only":
            return FailedPrecondition("DATABASE_READ_ONLY", f"{database} is read-only: {detail}")
        case "damaged":
            return DataLoss("DATABASE_DAMAGED", f"{database} is damaged: {detail}; restore it from a backup")
        case "away":
            return Unavailable("DATABASE_UNREACHABLE", f"{database} is unreachable: {detail}", retry_delay_s=1)
    return None


def _kind(error: DBAPIError) -> str:
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the primary code. Errors of the driver itself have none.
        known = _SQLITE.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)
    else:
        state = getattr(error.orig, "sqlstate", None) or ""
        known = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    if known is not None:
        return known
    is_bug = isinstance(error, IntegrityError | ProgrammingError | DataError | NotSupportedError)
    return _BUG if is_bug and not error.connection_invalidated else _UNREACHABLE
