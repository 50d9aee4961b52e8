"""The trainer's migrations make what its tables declare."""

from pathlib import Path

import services.trainer
from common.database import Database
from services.trainer.tables import DirectiveRow, ExportRow, RunEventRow, RunRow
from tests.harness.migrations import differences


def test_migrations_make_what_the_tables_declare(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'trainer.db'}")
    database.migrate(Path(services.trainer.__path__[0]) / "migrations")
    assert differences(database, RunRow, RunEventRow, DirectiveRow, ExportRow) == []
    database.close()
