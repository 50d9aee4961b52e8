"""What every service's process has."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from common.config import load_settings
from common.database import Database
from common.errors import MeshError
from common.server.process import open_service
from deepseek.services import SERVICES
from services.ingest.settings import IngestSettings
from services.registry.settings import RegistrySettings


def test_state_is_opened_migrated_and_closed(tmp_path: Path) -> None:
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path), "--port", "0"])
    with ExitStack() as resources, open_service(settings, resources) as server:
        assert server.metrics_address == ""
    with ExitStack() as resources, open_service(settings, resources):  # the next process is not kept out
        pass


def test_a_database_is_closed_where_telemetry_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Database] = []
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda self: (closed.append(self), close(self)))
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path)])
    settings.audit_file.mkdir(parents=True)  # where the file should be
    with pytest.raises((MeshError, OSError)), ExitStack() as resources:
        open_service(settings, resources)
    assert len(closed) == 1


def test_a_process_hosts_what_its_declaration_says(tmp_path: Path) -> None:
    settings = load_settings(IngestSettings, ["--home", str(tmp_path), "--port", "0"])
    with ExitStack() as resources, open_service(settings, resources) as server:
        assert sorted(server.names) == sorted(SERVICES["ingest"].contracts)


def test_a_service_that_is_not_declared_as_a_callee_cannot_be_called(tmp_path: Path) -> None:
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path)])
    from common.server.process import ServiceProcess

    with ExitStack() as resources:
        process = ServiceProcess(settings, Path("services/registry/migrations").absolute(), lambda _: (), resources)
        with pytest.raises(AssertionError, match="registry does not declare that it calls ingest"):
            process.channel("ingest")
        with pytest.raises(AssertionError, match="does not declare that it uses jobs"):
            process.open_jobs()
        with pytest.raises(AssertionError, match=r"registry does not declare deepseek\.job\.v1\.JobService"):
            process.host("deepseek.job.v1.JobService", lambda servicer, server: None, object())
