"""The migrations against the tables that the code declares."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from common.database import Base, Database
from services.registry import tables
from tests.services.registry.conftest import MIGRATIONS

OURS = {
    row.__tablename__
    for row in vars(tables).values()
    if isinstance(row, type) and issubclass(row, Base) and row is not Base
}


def test_the_migrations_make_the_declared_tables(database: Database) -> None:
    assert len(OURS) == 10
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: kind != "table" or name in OURS,
                "include_object": lambda item, name, kind, reflected, other: kind != "table" or name in OURS,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_keeps_what_is_there(database: Database) -> None:
    database.migrate(MIGRATIONS)
    database.check()
