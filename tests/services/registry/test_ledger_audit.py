"""The debits of a budget that an audit log records."""

from pathlib import Path

import pytest

from common.errors import MeshError
from common.telemetry.audit import AuditLog
from common.telemetry.audit_records import Head
from services.registry.ledger_audit import AuditedDebits

DEBIT = "/deepseek.privacy.v1.PrivacyService/Debit"


class Anchor:
    """Keeps the head in memory."""

    def __init__(self) -> None:
        self._head: Head | None = None

    def read(self) -> Head | None:
        return self._head

    def write(self, head: Head) -> None:
        self._head = head


def test_only_debits_that_succeeded_count(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, "registry", Anchor())
    for tenant, method, resource, code in (
        ("lab", DEBIT, "budgets/b/debits/1", "OK"),
        ("lab", DEBIT, "budgets/b/debits/2", "OK"),
        ("lab", DEBIT, "budgets/b/debits/2", "OK"),
        ("lab", DEBIT, "budgets/b", "FAILED_PRECONDITION"),
        ("lab", DEBIT, "budgets/b/debits/7", "INTERNAL"),
        ("lab", DEBIT, "budgets/c/debits/8", "OK"),
        ("other", DEBIT, "budgets/b/debits/9", "OK"),
        ("lab", "/deepseek.registry.v1.RegistryService/CreateModel", "budgets/b/debits/10", "OK"),
        ("lab", DEBIT, f"models/{DEBIT}", "OK"),
    ):
        sha256 = "d2" if resource.endswith("b/debits/2") else ""
        log.append(tenant=tenant, subject="s", method=method, resource=resource, sha256=sha256, code=code)
    debits = AuditedDebits(path)
    assert debits.debits("lab", "b") == {1: "", 2: "d2"}
    assert debits.debits("other", "b") == {9: ""}
    assert debits.debits("lab", "d") == {}
    log.append(tenant="lab", subject="s", method=DEBIT, resource="budgets/b/debits/3", code="OK")
    assert debits.debits("lab", "b") == {1: "", 2: "d2", 3: ""}
    log.close()


def test_lines_that_no_service_wrote_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(f'{{"what":"{DEBIT}","object":"budgets/b/debits/5"}}\n'.encode() + DEBIT.encode() + b"\n\xff\n")
    assert AuditedDebits(path).debits("lab", "b") == {}
    assert AuditedDebits(tmp_path / "none").debits("lab", "b") == {}
    with pytest.raises(MeshError):
        AuditedDebits(tmp_path).debits("lab", "b")
