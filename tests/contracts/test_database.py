"""What a service's database promises, asked of SQLite and of a real PostgreSQL."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from common.database import Database, now_us, once
from common.database.requests import KEPT_US, Request
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable
from common.jobs.job import JobRow
from common.telemetry.anchors import AuditAnchorRow
from tests.contracts.conftest import DatabasePlace
from tests.migrations import differences

REPOSITORY = Path(__file__).parents[2]


def _row(request_id: str, response: str = "") -> Request:
    return Request(tenant="t", method="m", request_id=request_id, body_sha256="", response=response, create_us=now_us())


def _ids(database: Database) -> list[str]:
    with database.snapshot() as session:
        return sorted(session.scalars(select(Request.request_id)))


def test_a_transaction_commits_at_its_end(database: Database, database_place: DatabasePlace) -> None:
    with database.transaction() as session:
        row = _row("a")
        session.add(row)

    assert row.request_id == "a"
    other = database_place.open()
    assert _ids(other) == ["a"]
    other.close()


def test_a_transaction_that_raises_leaves_no_trace(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            session.add(_row("a"))
            session.flush()
            raise NotFound("GONE", "gone")

    with pytest.raises(NotFound):
        fail()

    assert _ids(database) == []


def test_writers_take_turns_so_that_what_was_read_holds(database: Database, database_place: DatabasePlace) -> None:
    with database.transaction() as session:
        session.add(_row("counter", "0"))
    databases = [database, database_place.open()]

    def count(index: int) -> None:
        for _ in range(10):
            with databases[index % 2].transaction() as session:
                row = session.get_one(Request, ("t", "m", "counter"))
                row.response = str(int(row.response) + 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    databases[1].close()

    with database.snapshot() as session:
        assert session.get_one(Request, ("t", "m", "counter")).response == "60"


def test_a_snapshot_waits_for_nobody_and_sees_one_moment(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row("before"))

    with database.snapshot() as reader:
        assert list(reader.scalars(select(Request.request_id))) == ["before"]
        with database.transaction() as writer:
            writer.add(_row("after"))
            writer.flush()
            assert _ids(database) == ["before"]
        assert list(reader.scalars(select(Request.request_id))) == ["before"]

    assert _ids(database) == ["after", "before"]


def test_a_snapshot_cannot_write(database: Database) -> None:
    with pytest.raises(FailedPrecondition) as caught, database.snapshot() as session:
        session.add(_row("a"))

    assert caught.value.reason == "DATABASE_READ_ONLY"
    with database.transaction() as session:
        session.add(_row("b"))
    assert _ids(database) == ["b"]


def test_a_violated_constraint_is_not_blamed_on_the_engine(database: Database) -> None:
    with database.transaction() as session:
        session.add(_row("a"))

    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(_row("a"))


def test_a_wrong_statement_is_not_blamed_on_the_engine(database: Database) -> None:
    with pytest.raises(DBAPIError), database.transaction() as session:
        session.execute(text("SELECT nonsense"))


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
        session.add(_row("a"))

    database.migrate()

    assert _ids(database) == ["a"]


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


def _make(database: Database, body: bytes, *, request_id: str = "r-1", method: str = "Make", tenant: str = "t") -> str:
    """A creating call: its effect is one row."""
    with database.transaction() as session:

        def effect() -> str:
            name = f"made-{now_us()}-{threading.get_ident()}"
            session.add(_row(name))
            return name

        return once(session, tenant=tenant, method=method, request_id=request_id, body=body, effect=effect)


def _made(database: Database) -> list[str]:
    return [request_id for request_id in _ids(database) if request_id.startswith("made-")]


def test_the_same_request_takes_effect_once(database: Database) -> None:
    first = _make(database, b"body")

    assert _make(database, b"body") == first
    assert _made(database) == [first]


def test_the_same_id_with_another_body_is_refused(database: Database) -> None:
    first = _make(database, b"body")

    with pytest.raises(AlreadyExists) as caught:
        _make(database, b"another")

    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    assert _made(database) == [first]
    assert _make(database, b"body") == first


def test_ids_of_other_tenants_and_methods_do_not_meet(database: Database) -> None:
    names = {
        _make(database, b"a"),
        _make(database, b"b", tenant="other"),
        _make(database, b"c", method="Remake"),
        _make(database, b"d", request_id="r-2"),
    }

    assert len(names) == 4


def test_without_an_id_each_request_takes_effect(database: Database) -> None:
    assert _make(database, b"body", request_id="") != _make(database, b"body", request_id="")


def test_an_effect_that_fails_leaves_no_trace_of_its_id(database: Database) -> None:
    def effect() -> str:
        raise NotFound("GONE", "gone")

    with pytest.raises(NotFound), database.transaction() as session:
        once(session, tenant="t", method="Make", request_id="r-1", body=b"body", effect=effect)

    assert _ids(database) == []
    assert _make(database, b"another body") in _made(database)


def test_the_same_request_at_once_takes_effect_once(database: Database) -> None:
    start = threading.Barrier(8)

    def send(_: int) -> str:
        start.wait()
        return _make(database, b"body")

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(send, range(8)))

    assert len(names) == 1
    assert _made(database) == list(names)


def test_different_requests_with_one_id_at_once_leave_one_winner(database: Database) -> None:
    start = threading.Barrier(8)

    def send(index: int) -> str:
        start.wait()
        try:
            return _make(database, b"body %d" % index)
        except MeshError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(send, range(8)))

    assert outcomes.count("REQUEST_ID_REUSED") == 7
    assert len(_made(database)) == 1


def test_an_id_is_forgotten_after_seven_days(database: Database) -> None:
    first = _make(database, b"body")
    with database.transaction() as session:
        session.get_one(Request, ("t", "Make", "r-1")).create_us -= KEPT_US + 1

    assert _make(database, b"another") != first


@pytest.mark.parametrize("request_id", ["x" * 129, "a b", "a\n", "a\0", "é"])
def test_hostile_request_ids_are_refused(database: Database, request_id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _make(database, b"body", request_id=request_id)

    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "request_id")
    assert _ids(database) == []


def test_the_shared_clock_is_in_microseconds(database: Database) -> None:
    with database.snapshot() as session:
        assert abs(database.clock_us(session) - now_us()) < 5_000_000


def test_a_database_that_answers_is_ready(database: Database) -> None:
    database.check()


def test_a_server_that_cut_its_connections_is_found_again(postgresql_url: str) -> None:
    database = Database(postgresql_url, schema="cut")
    database.migrate()
    others = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND state = 'idle in transaction'"
    )

    def write_while_cut() -> None:
        with database.transaction() as session:
            session.add(_row("a"))
            session.flush()
            with database.snapshot() as other:
                other.execute(others).all()

    with pytest.raises(Unavailable) as caught:
        write_while_cut()
    assert caught.value.reason == "DATABASE_UNREACHABLE"

    assert _ids(database) == []
    database.check()
    database.close()


def test_schemas_of_two_services_do_not_meet(postgresql_url: str) -> None:
    one, two = (Database(postgresql_url, schema=name) for name in ("service_one", "service_two"))
    one.migrate()
    two.migrate()
    # Neither waits for the other's writer.
    with one.transaction() as session, two.transaction() as other:
        session.add(_row("a"))
        session.flush()
        other.add(_row("b"))

    assert (_ids(one), _ids(two)) == (["a"], ["b"])
    one.close()
    two.close()


def test_a_server_that_is_away_is_a_clear_error_without_the_password(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://mesh:hunter2@/postgres?host={tmp_path}", schema="mesh")

    for call in (database.check, database.migrate):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.reason == "DATABASE_UNREACHABLE"
        assert "hunter2" not in str(caught.value)
