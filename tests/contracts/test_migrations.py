"""Rows that the first release of a service has written are all there after every migration since.

`first_rows.sql` of each service's tests holds those rows; it is never changed, or only with the first release.
"""

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, Select, Table, select, text
from sqlalchemy.orm import Session

from common.database import Base, Database
from common.database.migration import VERSION_TABLE, known_revisions, upgrade
from common.upkeep.dump import State
from deepseek.services import SERVICES
from tests.contracts.conftest import DatabasePlace
from tests.harness.examples import examples_of
from tests.harness.migrations import differences

ROOT = Path(__file__).parents[2]
Rows = dict[str, list[dict[str, object]]]


@pytest.fixture
def database(database_place: DatabasePlace) -> Iterator[Database]:
    database = database_place.open()
    if database.engine.dialect.name == "postgresql":
        with database.engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {database_place.schema}"))
    yield database
    database.close()


def _migrations(service: str) -> Path:
    return ROOT / "services" / service / "migrations"


def _write_first_rows(database: Database, service: str) -> Rows:
    """Makes the tables of the first release, and fills them; returns what is in them."""
    locations = [_migrations(service)]
    with database.transaction() as session:
        first = [name for name in known_revisions(locations) if name.endswith("_1")]
        assert {f"{service}_1", "jobs_1", "requests_1"} <= set(first)
        upgrade(session.connection(), locations, [f"{service}_1", "jobs_1", "requests_1"])
        for folder in ("common", f"services/{service}"):
            rows = (ROOT / "tests" / folder / "first_rows.sql").read_text(encoding="utf-8")
            for statement in rows.split(";\n"):
                if statement.strip():
                    values = {"bytes": bytes(range(256))} if ":bytes" in statement else {}
                    session.execute(text(statement), values)
        return _rows(session)


def _rows(session: Session) -> Rows:
    metadata = MetaData()
    metadata.reflect(session.connection())
    return {
        table.name: [dict(row._mapping) for row in session.execute(_ordered(table))]
        for table in metadata.sorted_tables
        if table.name != VERSION_TABLE
    }


def _ordered(table: Table) -> Select[Any]:
    return select(table).order_by(*table.primary_key.columns)


def _kept(rows: Rows, before: Rows) -> Rows:
    """Of these rows, the tables and columns that there were before."""
    return {
        name: [{column: row[column] for column in old} for row, old in zip(rows[name], olds, strict=True)]
        for name, olds in before.items()
    }


def _models(service: str) -> list[type[Base]]:
    module = importlib.import_module(f"services.{service}.tables")
    return [
        model
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Base) and model.__module__ == module.__name__
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_of_the_first_release_is_lost(database: Database, service: str) -> None:
    before = _write_first_rows(database, service)
    assert all(before.values()), "every table of the first release has rows"

    database.migrate(_migrations(service))

    with database.snapshot() as session:
        assert _kept(_rows(session), before) == before
        for model in _models(service):
            assert all(isinstance(row, model) for row in session.scalars(select(model)))
    assert differences(database, *_models(service)) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_backup_of_the_first_release_is_taken_in(database: Database, service: str, tmp_path: Path) -> None:
    before, file = _write_first_rows(database, service), io.BytesIO()
    State(service, database, _migrations(service), lambda session: []).dump(file)
    newest = Database(f"sqlite:///{tmp_path}/newest/state.db")
    newest.migrate(_migrations(service))
    file.seek(0)

    State(service, newest, _migrations(service), lambda session: []).load(file)

    with newest.snapshot() as session:
        assert _kept(_rows(session), before) == before
    newest.close()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_tells_what_its_rows_refer_to(database: Database, service: str) -> None:
    _write_first_rows(database, service)
    database.migrate(_migrations(service))
    references = importlib.import_module(f"services.{service}.references").references

    with database.snapshot() as session:
        assert set(references(session)) == examples_of(service).references
