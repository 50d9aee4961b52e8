"""Compares the tables that migrations make with the models."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData

from common.database import Base, Database


def differences(database: Database, *models: type[Base]) -> list[Any]:
    """Returns the changes that Alembic would still make for some models; empty if the migrations are complete.

    Args:
        database: A migrated database.
        models: All models of one owner. Tables of others in the same database do not count.
    """
    wanted = MetaData(naming_convention=Base.metadata.naming_convention)
    for model in models:
        model.metadata.tables[model.__tablename__].to_metadata(wanted)

    def is_ours(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "table" or name in wanted.tables

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": is_ours, "compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, wanted))
