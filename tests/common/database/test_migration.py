"""Migrations: a database that has the newest revisions is recognized by the names of their files, without Alembic."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from common.database import Database
from common.database.migration import known_revisions, newest_revisions, revisions

ROOT = Path(__file__).parents[3]
FOLDERS = sorted((ROOT / "services").glob("*/migrations"))
MIGRATE = """
import sys
from pathlib import Path
from common.database import Database
Database(sys.argv[1]).migrate(Path(sys.argv[2]))
print("alembic" in sys.modules)
"""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_files_are_named_by_their_revisions(folder: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    assert f"{folder.parent.name}_1" in known_revisions([folder])
    database.migrate(folder)
    with database.snapshot() as session:
        assert set(revisions(session.connection())) == newest_revisions([folder])
    database.close()


def test_only_a_database_that_needs_revisions_imports_alembic(tmp_path: Path) -> None:
    url, folder = f"sqlite:///{tmp_path}/state.db", ROOT / "services" / "registry" / "migrations"

    def imports_alembic() -> bool:
        command = [sys.executable, "-c", MIGRATE, url, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"

    assert imports_alembic()
    assert not imports_alembic()
    database = Database(url)
    with database.transaction() as session:
        session.execute(text("DROP TABLE audit_anchors"))
        session.execute(text("DELETE FROM alembic_version WHERE version_num = 'audit_1'"))
    database.close()
    assert imports_alembic()


def test_the_tenth_revision_is_newer_than_the_ninth(tmp_path: Path) -> None:
    for name in ("toys_9.py", "toys_10.py", "__init__.py", "helper.py"):
        (tmp_path / name).touch()
    assert newest_revisions([tmp_path]) == newest_revisions([]) | {"toys_10"}
