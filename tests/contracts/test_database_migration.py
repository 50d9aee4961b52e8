"""Creating and migrating a service's database, over SQLite and a real PostgreSQL."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from common.database import Database
from common.database.requests import Request
from common.errors import FailedPrecondition
from common.jobs.job import JobRow
from common.telemetry.anchors import AuditAnchorRow
from tests.contracts.conftest import DatabasePlace
from tests.contracts.request_rows import new_request, request_ids
from tests.harness.migrations import differences

REPOSITORY = Path(__file__).parents[2]


def test_migrations_make_exactly_the_models(database: Database) -> None:
    assert differences(database, Request, JobRow, AuditAnchorRow) == []


def test_differences_would_be_found(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("DROP INDEX ix_requests_create_us"))
        session.execute(text("ALTER TABLE jobs ADD COLUMN extra INTEGER"))

    assert sorted(difference[0] for difference in differences(database, Request, JobRow, AuditAnchorRow)) == [
        "add_index",
        "remove_column",
    ]


def test_migrating_again_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        session.add(new_request("a"))

    database.migrate()

    assert request_ids(database) == ["a"]


MIGRATE = """
import sys
from common.database import Database
print("ready", flush=True)
sys.stdin.readline()
Database(sys.argv[1], schema=sys.argv[2]).migrate()
"""


def test_processes_that_migrate_at_once_all_succeed(database_place: DatabasePlace) -> None:
    command = [sys.executable, "-c", MIGRATE, database_place.url, database_place.schema]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()

    errors = [process.communicate(timeout=60)[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0] * 3, errors
    database = database_place.open()
    assert differences(database, Request, JobRow, AuditAnchorRow) == []
    database.close()


REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{id}"
down_revision = {down}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("{id}_table", sa.Column("id", sa.String(), primary_key=True))
    {more}
"""


def _write_revision(folder: Path, revision: str, down: str | None = None, more: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{revision}.py").write_text(REVISION.format(id=revision, down=repr(down), more=more))


def test_threads_that_make_a_database_at_once_all_succeed(tmp_path: Path) -> None:
    for index in range(10):
        start = threading.Barrier(4)

        def make(url: str, start: threading.Barrier) -> None:
            database = Database(url)
            start.wait()
            database.migrate()
            database.close()

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(make, f"sqlite:///{tmp_path}/{index}.db", start) for _ in range(4)]:
                future.result()


def test_several_folders_of_revisions_evolve_apart(database: Database, tmp_path: Path) -> None:
    _write_revision(tmp_path / "one", "one_1")
    database.migrate(tmp_path / "one")
    _write_revision(tmp_path / "one", "one_2", "one_1")
    _write_revision(tmp_path / "two", "two_1")
    database.migrate(tmp_path / "one", tmp_path / "two")

    with database.snapshot() as session:
        for table in ("one_1_table", "one_2_table", "two_1_table", "jobs", "requests"):
            session.execute(text(f"SELECT * FROM {table}"))
        heads = set(session.scalars(text("SELECT version_num FROM alembic_version")))
    assert heads == {"one_2", "two_1", "audit_1", "jobs_2", "requests_1"}


def test_a_migration_that_fails_leaves_no_trace(database: Database, tmp_path: Path) -> None:
    _write_revision(tmp_path / "one", "one_1")
    _write_revision(tmp_path / "one", "one_2", "one_1", more='op.execute("nonsense")')

    with pytest.raises(DBAPIError):
        database.migrate(tmp_path / "one")

    _write_revision(tmp_path / "one", "one_2", "one_1")
    database.migrate(tmp_path / "one")


def test_a_database_of_a_newer_release_is_refused(database: Database, tmp_path: Path) -> None:
    _write_revision(tmp_path / "one", "one_1")
    database.migrate(tmp_path / "one")

    with pytest.raises(FailedPrecondition) as caught:
        database.migrate()

    assert caught.value.reason == "DATABASE_TOO_NEW"
