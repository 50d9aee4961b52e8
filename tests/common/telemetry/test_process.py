"""What every service's process has."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from common.config import load_settings
from common.database import Database
from common.errors import MeshError
from common.telemetry.process import open_state
from services.registry.settings import RegistrySettings

MIGRATIONS = Path(__file__).parents[3] / "services" / "registry" / "migrations"


def test_state_is_opened_migrated_and_closed(tmp_path: Path) -> None:
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path)])
    with ExitStack() as owned:
        database, telemetry = open_state(settings, MIGRATIONS, owned)
        database.check()
        assert telemetry.metrics_address == ""
    with ExitStack() as owned:  # nothing is held that keeps the next process out
        open_state(settings, MIGRATIONS, owned)


def test_a_database_is_closed_where_telemetry_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Database] = []
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda self: (closed.append(self), close(self)))
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path)])
    settings.audit_file.mkdir(parents=True)  # where the file should be
    with pytest.raises((MeshError, OSError)), ExitStack() as owned:
        open_state(settings, MIGRATIONS, owned)
    assert len(closed) == 1
