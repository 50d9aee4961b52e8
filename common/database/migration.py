"""Alembic without its command line: several folders of revisions, one upgrade, in the caller's transaction.

Each folder is a branch of its own with its own base, so a service's tables and the common ones evolve apart. A revision
id starts with the folder's area (`requests_1`, `registry_2`): ids are unique across folders. Revisions are code that
ships in the wheel, so a folder has an `__init__.py`.
"""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from common.errors import FailedPrecondition

_HERE = Path(__file__).parent
_COMMON = tuple(_HERE.parent / area / "migrations" for area in ("database", "jobs", "telemetry"))

VERSION_TABLE = "alembic_version"
"""Where the revisions of a database stand."""

# `alembic.op`, which revisions use, is one for the whole process.
_OP = threading.Lock()


def upgrade(connection: Connection, locations: Sequence[Path], to: Sequence[str] = ("heads",)) -> None:
    """Runs all revisions that the database does not have yet.

    Args:
        connection: In a transaction, which makes it all or nothing and keeps other processes out.
        locations: Folders with revisions, besides the common ones.
        to: Revisions to stop at, with what they need; all by default.

    Raises:
        FailedPrecondition: DATABASE_TOO_NEW if the database has, or shall have, a revision that is in no folder.
    """
    script = _script(locations)
    context = MigrationContext.configure(
        connection, opts={"script": script, "fn": lambda heads, _: script._upgrade_revs(tuple(to), heads)}
    )
    patience: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if connection.dialect.name == "postgresql":
        from common.database.postgresql import unhurried

        patience = unhurried(connection)
    try:
        with patience, _OP, Operations.context(context):
            context.run_migrations()
    except CommandError as error:
        message = "the database was migrated by a newer release; install that one, or restore the backup from before"
        raise FailedPrecondition("DATABASE_TOO_NEW", f"{message} ({error})") from error


def revisions(connection: Connection) -> list[str]:
    """Returns the newest revision of each area that the database has, in ascending order."""
    return sorted(MigrationContext.configure(connection).get_current_heads())


def known_revisions(locations: Sequence[Path]) -> list[str]:
    """Returns every revision in these folders and the common ones, in ascending order."""
    return sorted(script.revision for script in _script(locations).walk_revisions())


def _script(locations: Sequence[Path]) -> ScriptDirectory:
    return ScriptDirectory(_HERE, version_locations=[*_COMMON, *locations])
