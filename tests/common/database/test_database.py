"""What is special about SQLite: its file, and the disk beneath it."""

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from common.database import Database
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError, ResourceExhausted, Unavailable
from tests.harness import mounts


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = _open(tmp_path / "state" / "test.db")
    database.migrate()
    yield database
    database.close()


def _open(path: Path) -> Database:
    return Database(f"sqlite:///{path}")


def _fill(database: Database, num_bytes: int) -> None:
    with database.transaction() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS filling (content BLOB)"))
        session.execute(text("INSERT INTO filling VALUES (zeroblob(:num_bytes))"), {"num_bytes": num_bytes})


def test_the_file_is_in_a_folder_of_its_own_user(database: Database, tmp_path: Path) -> None:
    assert (tmp_path / "state" / "test.db").is_file()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_every_connection_is_durable_and_checks_foreign_keys(database: Database) -> None:
    with database.transaction() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://host/db?password=hunter2",
        "postgresql://u:hunter2@host/db",
    ],
)
def test_urls_that_would_not_do_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Database(url)
    assert caught.value.reason == "BAD_DATABASE_URL"
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_away_is_named_without_what_the_query_of_its_url_holds() -> None:
    database = Database("postgresql+psycopg://mesh@127.0.0.1:1/state?password=hunter2")
    with pytest.raises(Unavailable, match=r"mesh@127\.0\.0\.1:1/state ") as caught:
        database.check()
    assert "hunter2" not in str(caught.value)
    database.close()


def test_a_schema_name_cannot_smuggle_statements() -> None:
    with pytest.raises(InvalidArgument):
        Database("postgresql+psycopg://host/db", schema="mesh; DROP TABLE jobs")


def test_a_file_that_is_gone_is_not_ready(database: Database, tmp_path: Path) -> None:
    database.check()
    (tmp_path / "state" / "test.db").rename(tmp_path / "elsewhere")

    with pytest.raises(Unavailable) as caught:
        database.check()
    assert caught.value.reason == "DATABASE_UNREACHABLE"


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "test.db").write_bytes(b"this is not a database, and long enough to see it" * 100)
    database = _open(tmp_path / "test.db")

    with pytest.raises(DataLoss) as caught:
        database.migrate()
    assert caught.value.reason == "DATABASE_DAMAGED"
    database.close()


def test_a_folder_in_place_of_the_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "test.db").mkdir()
    database = _open(tmp_path / "test.db")

    with pytest.raises(Unavailable):
        database.check()
    database.close()


def test_a_statement_that_was_interrupted_is_the_engines_fault(database: Database) -> None:
    def interrupted() -> None:
        with database.transaction() as session:
            driver = session.connection().connection.driver_connection
            assert driver is not None
            driver.set_progress_handler(lambda: 1, 1)
            try:
                session.execute(text("SELECT count(*) FROM jobs, requests"))
            finally:
                driver.set_progress_handler(None, 0)

    with pytest.raises(Unavailable) as caught:
        interrupted()
    assert caught.value.reason == "DATABASE_UNREACHABLE"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_PROTOCOL, "DATABASE_BUSY"),
        (sqlite3.SQLITE_NOMEM, "DATABASE_UNREACHABLE"),
        (sqlite3.SQLITE_IOERR_SHMMAP, "DATABASE_UNREACHABLE"),
        (sqlite3.SQLITE_CANTOPEN, "DATABASE_UNREACHABLE"),
        (200, "DATABASE_UNREACHABLE"),
    ],
)
def test_whatever_ails_the_engine_is_an_error_of_the_mesh(database: Database, code: int, reason: str) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    with pytest.raises(MeshError, match="what SQLite says") as caught, database.transaction():
        raise OperationalError("SELECT", {}, error)
    assert caught.value.reason == reason


@pytest.mark.faults
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "small", "2m") as small:
        database = _open(small / "test.db")
        database.migrate()
        _fill(database, 1000)
        with pytest.raises(ResourceExhausted) as caught:
            _fill(database, 8_000_000)
        assert caught.value.reason == "DATABASE_FULL"

        _fill(database, 1000)
        with database.snapshot() as session:
            assert session.scalar(text("SELECT count(*) FROM filling")) == 2
        database.close()


@pytest.mark.faults
def test_a_read_only_disk_is_an_error_for_writers(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "mount") as mount:
        database = _open(mount / "test.db")
        database.migrate()
        _fill(database, 1000)
        database.close()
        mounts.make_read_only(mount)

        database = _open(mount / "test.db")
        with pytest.raises(MeshError) as caught:
            _fill(database, 1000)
        assert isinstance(caught.value, FailedPrecondition | Unavailable)
        database.close()
