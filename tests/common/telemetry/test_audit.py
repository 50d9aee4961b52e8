"""The audit log: what it holds, and what it finds out."""

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.database import Database
from common.errors import ResourceExhausted, Unavailable
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
from common.telemetry.audit_records import EMPTY, Head, read_record
from common.telemetry.audit_verify import verify
from tests.harness.processes import wait_until


@pytest.fixture
def anchor(tmp_path: Path) -> Iterator[DatabaseAnchor]:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    database.migrate()
    yield DatabaseAnchor(database, tmp_path / "audit" / "x.jsonl")
    database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "x.jsonl"


def write(path: Path, anchor: DatabaseAnchor, num_records: int = 5) -> None:
    log = AuditLog(path, "x", anchor)
    for number in range(num_records):
        log.append(tenant="t", subject="ann", method="/s/M", resource=f"models/{number}", trace_id="ab")
    log.close()


def found(path: Path, anchor: DatabaseAnchor) -> list[tuple[int, str]]:
    return [(finding.line, finding.problem) for finding in verify(path, anchor.read() or EMPTY).findings]


def test_a_record_tells_who_did_what_to_which_object(path: Path, anchor: DatabaseAnchor) -> None:
    log = AuditLog(path, "x", anchor)
    log.append(tenant="t", subject="ann", method="/s/M", resource="models/m", trace_id="ab")
    log.append(tenant="", subject="", method="/s/M", code="UNAUTHENTICATED", reason="NO_TOKEN")
    log.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["who"] == {"tenant": "t", "subject": "ann"}
    assert (first["what"], first["object"], first["trace_id"], first["seq"]) == ("/s/M", "models/m", "ab", 1)
    assert second["outcome"] == {"code": "UNAUTHENTICATED", "reason": "NO_TOKEN"}
    assert (second["seq"], second["prev"]) == (2, first["hash"])
    assert path.stat().st_mode & 0o077 == 0
    assert found(path, anchor) == []


def test_a_log_goes_on_where_it_ended(path: Path, anchor: DatabaseAnchor) -> None:
    write(path, anchor, 2)
    write(path, anchor, 3)
    assert anchor.read() == Head(5, json.loads(path.read_text().splitlines()[-1])["hash"], path.stat().st_size)
    assert verify(path, anchor.read() or EMPTY).num_records == 5
    assert found(path, anchor) == []


def test_writers_of_one_log_make_one_chain(path: Path, anchor: DatabaseAnchor) -> None:
    logs = [AuditLog(path, "x", anchor) for _ in range(2)]

    def append(log: AuditLog) -> None:
        for _ in range(50):
            log.append(tenant="t", subject="ann", method="/s/M")

    threads = [threading.Thread(target=append, args=(log,)) for log in logs for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    assert verify(path, anchor.read() or EMPTY).num_records == 200
    assert found(path, anchor) == []


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


TAMPERING = {
    "changed": (lambda lines: [*lines[:2], lines[2].replace(b"ann", b"bob"), *lines[3:]], 3, "was changed"),
    "spaced": (lambda lines: [*lines[:2], lines[2].replace(b":", b": ", 1), *lines[3:]], 3, "was changed"),
    "removed": (lambda lines: lines[:2] + lines[3:], 3, "record 3 is missing before it"),
    "first removed": (lambda lines: lines[2:], 1, "records 1 to 2 are missing before it"),
    "repeated": (lambda lines: [*lines[:3], *lines[2:]], 4, "does not follow"),
    "swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], 1, "record 1 is missing before it"),
    "cut off": (lambda lines: lines[:3], 4, "records 4 to 5 are missing at the end"),
    "cut within": (lambda lines: [*lines[:4], lines[4][:20]], 5, "record 5 is missing at the end"),
    "emptied": (lambda lines: [], 1, "records 1 to 5 are missing at the end"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_the_line_named(name: str, path: Path, anchor: DatabaseAnchor) -> None:
    change, line, problem = TAMPERING[name]
    write(path, anchor)
    edit(path, change)
    first, *_ = found(path, anchor)
    assert first[0] == line
    assert problem in first[1]


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_still_found_after_a_restart(name: str, path: Path, anchor: DatabaseAnchor) -> None:
    change, line, _ = TAMPERING[name]
    write(path, anchor)
    edit(path, change)
    write(path, anchor)
    assert line in [finding[0] for finding in found(path, anchor)]


def test_a_log_without_an_anchor_is_not_taken_for_ones_own(path: Path, anchor: DatabaseAnchor) -> None:
    path.parent.mkdir()
    planted = path.with_name("planted")
    forge(planted)
    planted.rename(path)
    write(path, anchor, 2)
    finding = (6, "does not follow the line before it: one of them is new")
    assert finding in found(path, anchor)
    write(path, anchor, 2)
    assert finding in found(path, anchor)


def test_the_anchor_is_there_before_the_first_record(path: Path, anchor: DatabaseAnchor) -> None:
    log = AuditLog(path, "x", anchor)
    assert anchor.read() == EMPTY
    log.close()


def test_a_log_is_followed_in_pieces(path: Path, anchor: DatabaseAnchor, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, behind = AuditLog(path, "x", anchor), AuditLog(path, "x", anchor)
    for _ in range(20):
        ahead.append(tenant="t", subject="ann", method="/s/M")
    monkeypatch.setattr("common.telemetry.audit._READ_BYTES", 1000)  # two records and a part of the third
    behind.append(tenant="t", subject="ann", method="/s/M")
    assert behind.head.sequence == 21
    ahead.close()
    behind.close()
    assert found(path, anchor) == []


def test_a_line_longer_than_any_record_is_somebody_elses(
    path: Path, anchor: DatabaseAnchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.telemetry.audit._READ_BYTES", 1000)
    write(path, anchor, 1)
    with path.open("ab") as file:
        file.write(b"x" * 5000)
    write(path, anchor, 1)
    assert [line for line, _ in found(path, anchor)] == [2]


def test_a_log_that_was_removed_is_missed(path: Path, anchor: DatabaseAnchor) -> None:
    write(path, anchor)
    path.unlink()
    assert found(path, anchor) == [(1, "records 1 to 5 are missing at the end")]


def forge(path: Path) -> None:
    """Writes the whole chain anew, as somebody may who can write the file and not the database."""
    forged = path.with_name("forged")

    class NoAnchor:
        def read(self) -> Head | None:
            return None

        def write(self, head: Head) -> None:
            pass

    log = AuditLog(forged, "x", NoAnchor())
    for number in range(5):
        log.append(tenant="t", subject="bob", method="/s/M", resource=f"models/{number}", trace_id="ab")
    log.close()
    forged.replace(path)


def test_a_chain_that_was_written_anew_is_found_by_its_anchor(path: Path, anchor: DatabaseAnchor) -> None:
    write(path, anchor)
    forge(path)
    assert found(path, anchor) == [(5, "does not match the anchor: the log was rewritten")]
    write(path, anchor, 1)
    assert found(path, anchor)


def test_a_live_log_is_verified_while_it_grows(path: Path, anchor: DatabaseAnchor) -> None:
    log = AuditLog(path, "x", anchor)
    log.append(tenant="t", subject="ann", method="/s/M")
    head = log.head
    log.append(tenant="t", subject="ann", method="/s/M")
    assert verify(path, head).findings == ()
    edit(path, lambda lines: lines[1:])
    assert [finding.line for finding in verify(path, head).findings] == [1]
    log.close()


WRITER = """
import sys
from pathlib import Path
from common.database import Database
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
database = Database(sys.argv[1])
database.migrate()
log = AuditLog(Path(sys.argv[2]), "x", DatabaseAnchor(database, Path(sys.argv[2])))
while True:
    log.append(tenant="t", subject="ann", method="/s/M")
    print(log.head.sequence, flush=True)
"""


@pytest.mark.faults
def test_a_killed_writer_loses_nothing_that_it_has_acknowledged(
    tmp_path: Path, path: Path, anchor: DatabaseAnchor
) -> None:
    arguments = [f"sqlite:///{tmp_path}/state.db", str(path)]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for _ in range(100):
            last = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last = (process.stdout.read().splitlines() or [last])[-1]
    write(path, anchor, 1)
    assert found(path, anchor) == []
    assert verify(path, anchor.read() or EMPTY).num_records > int(last)


def test_a_torn_last_line_is_repaired_and_says_so(path: Path, anchor: DatabaseAnchor) -> None:
    write(path, anchor)
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines()[-1][:50])
    assert found(path, anchor) == []
    write(path, anchor, 1)
    repair, last = map(json.loads, path.read_text().splitlines()[-2:])
    assert (repair["what"], repair["object"], repair["seq"]) == ("audit.repair", "50 bytes of a torn line", 6)
    assert last["seq"] == 7
    assert found(path, anchor) == []


def test_records_that_cannot_be_written_leave_the_log_whole(path: Path, anchor: DatabaseAnchor) -> None:
    log = AuditLog(path, "x", anchor)
    log.append(tenant="t", subject="ann", method="/s/M")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(ResourceExhausted) as caught:
            log.append(tenant="t", subject="ann", method="/s/M")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.reason == "DISK_FULL"
    log.append(tenant="t", subject="ann", method="/s/M")
    log.close()
    assert verify(path, anchor.read() or EMPTY).num_records == 2
    assert found(path, anchor) == []


def test_an_anchor_that_is_away_for_a_while_is_caught_up_with(path: Path, anchor: DatabaseAnchor) -> None:
    class Flaky:
        away = False

        def read(self) -> Head | None:
            return anchor.read()

        def write(self, head: Head) -> None:
            if self.away:
                raise Unavailable("DATABASE_UNREACHABLE", "away")
            anchor.write(head)

    flaky = Flaky()
    log = AuditLog(path, "x", flaky)
    flaky.away = True
    log.append(tenant="t", subject="ann", method="/s/M")
    flaky.away = False
    wait_until(lambda: anchor.read() == log.head, "the head to be anchored")
    log.close()


def test_an_anchor_never_goes_back(anchor: DatabaseAnchor) -> None:
    anchor.write(Head(2, "b", 2))
    anchor.write(Head(1, "a", 1))
    assert anchor.read() == Head(2, "b", 2)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"{}", b"1", b'{"seq": true}', b"\xff"])
def test_a_line_that_is_no_record_is_none(line: bytes) -> None:
    assert read_record(line) is None
