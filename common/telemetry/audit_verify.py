"""Verifies an audit log: its lines, the hash chain, and the head that is anchored outside the file."""

from dataclasses import dataclass
from pathlib import Path

from common.files import disk_error
from common.telemetry.audit_records import EMPTY, Head, read_record


@dataclass(frozen=True)
class AuditFinding:
    """A defect of a log.

    Attributes:
        line: Number of the line, starting at 1. If the end of the log is missing, the number after the last line.
        problem: Description of the defect, for people.
    """

    line: int
    problem: str


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        num_records: Number of intact records.
        findings: Defects; empty if the log is intact.
    """

    num_records: int
    findings: tuple[AuditFinding, ...]


def verify(path: Path, head: Head) -> Verification:
    """Checks every line of a log, and compares the log with its head. The service may be writing to the log.

    Args:
        path: File of the log.
        head: Head that the service reported before this call.

    Raises:
        MeshError: The file cannot be read.
    """
    findings: list[AuditFinding] = []
    num_records = line_number = last = 0
    previous: str | None = EMPTY.hash  # None after an unreadable line
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    line_number -= 1  # being written, or torn; if the head includes it, it is reported below
                    break
                record = read_record(line[:-1])
                if record is None:
                    findings.append(AuditFinding(line_number, "was changed: it does not match its hash"))
                    previous = None
                    continue
                sequence = record["seq"]
                if previous is not None and sequence > last + 1:
                    findings.append(AuditFinding(line_number, f"{_records(last + 1, sequence - 1)} missing before it"))
                elif previous is not None and (record["prev"], sequence) != (previous, last + 1):
                    findings.append(AuditFinding(line_number, "does not follow the line before it: one of them is new"))
                if sequence == head.sequence and record["hash"] != head.hash:
                    findings.append(AuditFinding(line_number, "does not match the anchor: the log was rewritten"))
                num_records, last, previous = num_records + 1, sequence, record["hash"]
    except FileNotFoundError:
        pass  # no record yet, unless the head says otherwise
    except OSError as error:
        raise disk_error(error, path, "the audit log") from error
    if last < head.sequence and previous is not None:
        findings.append(AuditFinding(line_number + 1, f"{_records(last + 1, head.sequence)} missing at the end"))
    return Verification(num_records, tuple(findings))


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
