"""The migrations against the tables that the code declares, and against what earlier releases have left."""

import shutil
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

import services.ingest
from common.artifacts import open_store
from common.database import Base, Database, now_us
from services.ingest import tables
from services.ingest.samples import ReceivedSample
from tests.services.ingest.state import open_uploads

MIGRATIONS = Path(services.ingest.__file__).parent / "migrations"
OURS = {
    row.__tablename__
    for row in vars(tables).values()
    if isinstance(row, type) and issubclass(row, Base) and row is not Base
}


def test_the_migrations_make_the_declared_tables(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ingest.db")
    database.migrate(MIGRATIONS)
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


def test_an_upload_from_before_uploads_expired_is_kept_and_can_be_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    shutil.copy(MIGRATIONS / "ingest_1.py", tmp_path / "earlier")
    database = Database(f"sqlite:///{tmp_path}/ingest.db")
    database.migrate(tmp_path / "earlier")
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO uploads VALUES ('default', 'u', 'datasets/d', '[[\"n\",\"integer\",false,[]]]', 0, 0,"
                " false, '', '', '', 1)"
            )
        )

    before = now_us()
    database.migrate(MIGRATIONS)
    uploads = open_uploads(database, open_store(f"file://{tmp_path}/store"))
    assert uploads.expire(60 * 1_000_000) == []
    upload = uploads.get("default", "uploads/u")
    assert (upload.create_us, upload.num_samples) == (1, 0)
    assert before <= upload.update_us <= now_us()
    with uploads.write("default", "uploads/u", offset=0) as writer:
        writer.add([ReceivedSample("k", "train", [("n", [1])])])
    assert uploads.get("default", "uploads/u").num_samples == 1
    database.close()
