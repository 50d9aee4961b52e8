"""Migrations by Alembic: several folders of revisions, upgraded together in the caller's transaction.

Each folder is a separate branch with its own base, so a service's tables and the common tables evolve independently. A
revision id consists of the name of its branch, called the area, and a number (`requests_1`, `registry_2`), so ids are
unique across folders. Revisions are code in the wheel, so each folder has an `__init__.py`. Each file is named after
its revision id, so an up-to-date database is recognized without importing Alembic. That import takes as long as
importing the rest of `common.database`.
"""

import contextlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from common.errors import FailedPrecondition

_HERE = Path(__file__).parent
_COMMON = tuple(_HERE.parent / area / "migrations" for area in ("database", "jobs", "telemetry"))

VERSION_TABLE = "alembic_version"
"""Name of the table that holds the current revisions of a database."""

_REVISION = re.compile(r"(?P<area>[a-z_]+)_(?P<number>\d+)")

# Held during a migration, because `alembic.op`, which revisions use, is a global of the process.
_OP = threading.Lock()


def upgrade(connection: Connection, locations: Sequence[Path], to: Sequence[str] = ("heads",)) -> None:
    """Runs all revisions that have not been applied to the database yet.

    Args:
        connection: Connection in a transaction, which makes the upgrade atomic and excludes other processes.
        locations: Folders with revisions, in addition to the common ones.
        to: Target revisions, which are run with their ancestors; the newest revisions by default.

    Raises:
        FailedPrecondition: DATABASE_TOO_NEW if a current revision of the database, or one in `to`, is unknown.
    """
    if tuple(to) == ("heads",) and set(revisions(connection)) == newest_revisions(locations):
        return
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    script = _script(locations)
    context = MigrationContext.configure(
        connection, opts={"script": script, "fn": lambda heads, _: script._upgrade_revs(tuple(to), heads)}
    )
    no_limit: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if connection.dialect.name == "postgresql":
        from common.database.postgresql import without_silence_limit

        no_limit = without_silence_limit(connection)
    try:
        with no_limit, _OP, Operations.context(context):
            context.run_migrations()
    except CommandError as error:
        message = "a newer release has migrated the database; install that release, or restore an older backup"
        raise FailedPrecondition("DATABASE_TOO_NEW", f"{message} ({error})") from error


def revisions(connection: Connection) -> list[str]:
    """Returns the database's current revision in each area, in ascending order."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return []
    return sorted(connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars())


def newest_revisions(locations: Sequence[Path]) -> set[str]:
    """Returns the newest revision of each area in the given and the common folders, judging by the file names."""
    newest: dict[str, int] = {}
    for folder in (*_COMMON, *locations):
        for file in folder.glob("*.py"):
            if match := _REVISION.fullmatch(file.stem):
                newest[match["area"]] = max(newest.get(match["area"], 0), int(match["number"]))
    return {f"{area}_{number}" for area, number in newest.items()}


def known_revisions(locations: Sequence[Path]) -> list[str]:
    """Returns every revision in the given and the common folders, in ascending order."""
    return sorted(script.revision for script in _script(locations).walk_revisions())


def _script(locations: Sequence[Path]) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(_HERE, version_locations=[*_COMMON, *locations])
