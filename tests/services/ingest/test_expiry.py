"""Uploads that are dropped are in the audit log, or not dropped."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import services.ingest
from common.artifacts import open_store
from common.database import Database, PageRequest, Repeatable
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
from common.telemetry.audit_verify import verify
from deepseek.data.manifest import Field
from services.ingest.expiry import Expiry
from services.ingest.uploads import Uploads, UploadState
from tests.harness.processes import wait_until
from tests.services.ingest.state import open_uploads

FIELDS = (Field("number", "integer"),)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/ingest.db")) as database:
        database.migrate(Path(services.ingest.__file__).parent / "migrations")
        yield database


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "ingest.jsonl"


@pytest.fixture
def audit(database: Database, log: Path) -> Iterator[AuditLog]:
    with closing(AuditLog(log, "ingest", DatabaseAnchor(database, log))) as audit:
        yield audit


@pytest.fixture
def uploads(database: Database, tmp_path: Path) -> Uploads:
    return open_uploads(database, open_store(f"file://{tmp_path}/store"))


def create(uploads: Uploads, tenant: str) -> str:
    return uploads.create(tenant, "datasets/d", FIELDS, Repeatable("CreateUpload")).name


def test_every_drop_is_in_the_audit_log(uploads: Uploads, audit: AuditLog, log: Path) -> None:
    names = {(tenant, create(uploads, tenant)) for tenant in ("lab", "other")}
    expiry = Expiry(uploads, audit, idle_s=0.05)
    with ExitStack() as owned:
        expiry.start()
        owned.callback(expiry.stop)
        wait_until(lambda: not any(uploads.list(tenant, PageRequest())[0] for tenant, _ in names), "the drops")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(record["who"]["tenant"], record["object"]) for record in records} == names
    assert len(records) == 2
    for record in records:
        assert (record["who"]["subject"], record["what"]) == ("ingest", "ingest.expire")
        assert record["outcome"] == {"code": "OK", "reason": "UPLOAD_IDLE"}
    assert not verify(log, audit.head).findings


@pytest.mark.faults
def test_nothing_is_dropped_while_the_log_takes_nothing(
    uploads: Uploads, audit: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    name = create(uploads, "lab")
    audit.close()
    expiry = Expiry(uploads, audit, idle_s=0.05)
    with ExitStack() as owned:
        expiry.start()
        owned.callback(expiry.stop)
        wait_until(lambda: caplog.text.count("cannot delete abandoned uploads") > 1, "two passes")
    assert uploads.get("lab", name).state is UploadState.OPEN
