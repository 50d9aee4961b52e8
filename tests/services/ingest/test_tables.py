"""The migrations against the tables that the code declares."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import services.ingest
from common.database import Base, Database
from services.ingest import tables

OURS = {
    row.__tablename__
    for row in vars(tables).values()
    if isinstance(row, type) and issubclass(row, Base) and row is not Base
}


def test_the_migrations_make_the_declared_tables(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ingest.db")
    database.migrate(Path(services.ingest.__file__).parent / "migrations")
    assert len(OURS) == 4
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
    database.close()
