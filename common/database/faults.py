"""What went wrong in an engine, in the mesh's words.

Errors of our own statements (a broken constraint, bad SQL) are not translated: they are bugs. Anything else counts as
the engine being away, known or not: it is not the caller's fault, and it may pass.
"""

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from common.errors import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable

_BUSY = "busy"
_FULL = "full"
_READ_ONLY = "read-only"
_DAMAGED = "damaged"
_AWAY = "away"
_OURS = "ours"

_SQLITE = {
    sqlite3.SQLITE_ERROR: _OURS,
    sqlite3.SQLITE_MISUSE: _OURS,
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

# By SQLSTATE, or the first two of its characters, which are its class.
_POSTGRESQL = {
    "40": _BUSY,
    "55P03": _BUSY,
    "57014": _BUSY,
    "53100": _FULL,
    "25006": _READ_ONLY,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    "42501": _AWAY,
}


def translate(error: DBAPIError, database: str) -> MeshError | None:
    """Returns the MeshError that an engine's error amounts to, None if it is not the engine's fault.

    Args:
        error: As SQLAlchemy raised it.
        database: The database's URL without password and query, for the message.
    """
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


def _kind(error: DBAPIError) -> str:
    if isinstance(error.orig, sqlite3.Error):
        # The low byte is the primary code. Errors of the driver itself have none.
        known = _SQLITE.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)
    else:
        state = getattr(error.orig, "sqlstate", None) or ""
        known = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    if known is not None:
        return known
    ours = isinstance(error, IntegrityError | ProgrammingError | DataError | NotSupportedError)
    return _OURS if ours and not error.connection_invalidated else _AWAY
