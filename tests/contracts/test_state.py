"""What a state file promises, whichever engine its rows come from and go to."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from common.database import Database
from common.database.migration import revisions, upgrade
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError
from common.names import new_id
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit_records import Head
from common.upkeep import statefile
from common.upkeep.dump import Reference, State
from protos.upkeep.v1 import upkeep_pb2
from tests.contracts.conftest import DatabasePlace

# The second revision also moves something, as real ones do.
FIRST = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "toys_1", None, None, None

def upgrade():
    op.create_table("boxes", sa.Column("id", sa.String(), primary_key=True))
    op.create_table(
        "a_toys",  # before its box by name, after it by reference
        sa.Column("box", sa.String(), sa.ForeignKey("boxes.id"), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("loved", sa.Boolean(), nullable=False),
        sa.Column("picture", sa.LargeBinary(), nullable=False),
    )
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "toys_2", "toys_1", None, None

def upgrade():
    op.add_column("boxes", sa.Column("num_toys", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE boxes SET num_toys = (SELECT count(*) FROM a_toys WHERE box = boxes.id)")
"""
LOG = Path("/home/audit/toys.jsonl")
HEAD = Head(7, "ab" * 32, 700)
"""An audit log and its head: of the place, whatever state comes in."""
TOYS = [
    ("red", -(2**63), None, 0.1, True, bytes(range(256))),
    ("red", 2**63 - 1, "", 1e308, False, b""),
    ("red", 3, "Bär 🧸 'quoted'\n", -2.5, False, b"\0"),
]
REFERENCES = [Reference("t", f"{number:064x}", "text/plain") for number in range(2500)]


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "toys_1.py").write_text(FIRST)
    return folder


@pytest.fixture
def place(database_place: DatabasePlace) -> DatabasePlace:
    return database_place


@pytest.fixture(params=["sqlite", "postgresql"])
def other_place(request: pytest.FixtureRequest, tmp_path: Path) -> DatabasePlace:
    if request.param == "sqlite":
        return DatabasePlace(f"sqlite:///{tmp_path}/other/test.db", "unused")
    return DatabasePlace(request.getfixturevalue("postgresql_url"), f"test_{new_id()}")


@contextlib.contextmanager
def _open(place: DatabasePlace, migrations: Path) -> Iterator[tuple[Database, State]]:
    database = place.open()
    database.migrate(migrations)
    try:
        yield database, State("toys", database, migrations, lambda session: REFERENCES)
    finally:
        database.close()


@pytest.fixture
def source(place: DatabasePlace, migrations: Path) -> Iterator[State]:
    with _open(place, migrations) as (database, state):
        with database.transaction() as session:
            _fill(session)
        yield state


@pytest.fixture
def target(other_place: DatabasePlace, migrations: Path) -> Iterator[tuple[Database, State]]:
    with _open(other_place, migrations) as opened:
        yield opened


def _fill(session: Session) -> None:
    session.execute(text("INSERT INTO boxes (id) VALUES ('red'), ('blue')"))
    columns = ("box", "number", "name", "weight", "loved", "picture")
    statement = text(f"INSERT INTO a_toys VALUES ({', '.join(f':{column}' for column in columns)})")
    session.execute(statement, [dict(zip(columns, toy, strict=True)) for toy in TOYS])


def _dumped(state: State) -> bytes:
    file = io.BytesIO()
    state.dump(file)
    return file.getvalue()


def _toys(database: Database) -> list[tuple[object, ...]]:
    with database.snapshot() as session:
        rows = session.execute(text("SELECT box, number, name, weight, loved, picture FROM a_toys")).all()
    return sorted(
        (box, number, name, weight, bool(loved), bytes(data)) for box, number, name, weight, loved, data in rows
    )


def test_rows_of_any_engine_go_into_any_other(source: State, target: tuple[Database, State]) -> None:
    database, state = target
    DatabaseAnchor(database, LOG).write(HEAD)

    assert state.load(io.BytesIO(_dumped(source))) == 5

    assert _toys(database) == sorted(TOYS)
    assert DatabaseAnchor(database, LOG).read() == HEAD
    assert (state.num_rows(), state.revisions()) == (5, ["audit_1", "jobs_2", "requests_1", "toys_1"])
    assert _dumped(state) == _dumped(source)


def test_a_file_tells_what_its_rows_refer_to(source: State) -> None:
    parts = list(statefile.read(io.BytesIO(_dumped(source))))

    listed = [one.sha256 for part in parts for one in part.references.references]
    assert listed == [one.sha256 for one in REFERENCES]
    assert [one.sha256 for group in source.references() for one in group.references] == listed
    assert (parts[0].header.service, list(parts[0].header.revisions)) == ("toys", source.revisions())


def test_a_file_is_of_one_moment(database_place: DatabasePlace, migrations: Path) -> None:
    with _open(database_place, migrations) as (database, _):

        def write_meanwhile(session: Session) -> list[Reference]:
            with database.transaction() as other:
                _fill(other)
            return []

        dumped = _dumped(State("toys", database, migrations, write_meanwhile))

        assert [part.WhichOneof("part") for part in statefile.read(io.BytesIO(dumped))] == ["header"]
        assert len(_toys(database)) == len(TOYS)


def test_rows_that_are_there_are_not_touched(source: State, target: tuple[Database, State]) -> None:
    database, state = target
    with database.transaction() as session:
        session.execute(text("INSERT INTO boxes (id) VALUES ('mine')"))

    with pytest.raises(FailedPrecondition) as caught:
        state.load(io.BytesIO(_dumped(source)))

    assert caught.value.reason == "STATE_NOT_EMPTY"
    assert state.num_rows() == 1


@pytest.mark.parametrize("place_of_damage", [0.0, 0.3, 0.99])
def test_a_damaged_file_changes_nothing(source: State, target: tuple[Database, State], place_of_damage: float) -> None:
    whole = _dumped(source)
    position = int(place_of_damage * len(whole))
    flipped = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    for damaged in (flipped, whole[:position], whole[:-1], whole + b"\0", b"", b"not a state file"):
        with pytest.raises(DataLoss) as caught:
            target[1].load(io.BytesIO(damaged))
        assert caught.value.reason == "STATE_DAMAGED"
    assert target[1].num_rows() == 0


def test_a_file_of_another_service_or_a_newer_release_is_refused(source: State, target: tuple[Database, State]) -> None:
    for service, revision, reason in (("others", "toys_1", "WRONG_SERVICE"), ("toys", "toys_9", "STATE_TOO_NEW")):
        file = io.BytesIO()
        header = upkeep_pb2.StateHeader(service=service, revisions=["jobs_1", "requests_1", revision])
        statefile.write(file, [upkeep_pb2.StatePart(header=header)])
        file.seek(0)
        with pytest.raises(MeshError) as caught:
            target[1].load(file)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "rows",
    [
        upkeep_pb2.StateRows(
            table="nothing", columns=["id"], rows=[upkeep_pb2.Row(values=[upkeep_pb2.Value(text="x")])]
        ),
        upkeep_pb2.StateRows(table="boxes", columns=["it"], rows=[upkeep_pb2.Row(values=[upkeep_pb2.Value(text="x")])]),
        upkeep_pb2.StateRows(table="boxes", columns=["id"], rows=[upkeep_pb2.Row()]),
        upkeep_pb2.StateRows(table="boxes", columns=["id"], rows=[upkeep_pb2.Row(values=[upkeep_pb2.Value()])]),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_take_those_before_with_them(
    source: State, target: tuple[Database, State], rows: upkeep_pb2.StateRows
) -> None:
    file = io.BytesIO()
    statefile.write(file, [*statefile.read(io.BytesIO(_dumped(source))), upkeep_pb2.StatePart(rows=rows)])
    file.seek(0)

    with pytest.raises(InvalidArgument) as caught:
        target[1].load(file)

    assert caught.value.reason == "BAD_STATE"
    assert target[1].num_rows() == 0


def test_a_file_of_an_earlier_release_is_migrated(
    source: State, other_place: DatabasePlace, migrations: Path, tmp_path: Path
) -> None:
    earlier = _dumped(source)
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "toys_1.py").write_text(FIRST)
    (newer / "toys_2.py").write_text(SECOND)
    with _open(other_place, newer) as (database, state):
        assert state.known_revisions() == ["audit_1", "jobs_1", "jobs_2", "requests_1", "toys_1", "toys_2"]
        DatabaseAnchor(database, LOG).write(HEAD)

        assert state.load(io.BytesIO(earlier)) == 5

        assert state.revisions() == ["audit_1", "jobs_2", "requests_1", "toys_2"]
        assert DatabaseAnchor(database, LOG).read() == HEAD
        assert _toys(database) == sorted(TOYS)
        with database.snapshot() as session:
            counts = {row.id: row.num_toys for row in session.execute(text("SELECT id, num_toys FROM boxes"))}
        assert counts == {"red": 3, "blue": 0}


def test_an_upgrade_keeps_the_rows_of_an_earlier_schema(database_place: DatabasePlace, migrations: Path) -> None:
    with _open(database_place, migrations) as (database, _):
        with database.transaction() as session:
            _fill(session)
        (migrations / "toys_2.py").write_text(SECOND)

        with database.transaction() as session:
            upgrade(session.connection(), [migrations], ["toys_1"])
            assert revisions(session.connection()) == ["audit_1", "jobs_2", "requests_1", "toys_1"]
        database.migrate(migrations)

        assert _toys(database) == sorted(TOYS)
        with database.snapshot() as session:
            assert session.execute(text("SELECT num_toys FROM boxes WHERE id = 'red'")).scalar_one() == 3
