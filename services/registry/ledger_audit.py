"""Debits that the registry's audit log records.

The log is a file, so someone who removes the last debits from the database, or writes the whole ledger anew, and adapts
the budget to that, does not change it. A record is written after the debit and before the response to the caller
(`common.telemetry.calls`).
"""

from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from common.files import disk_error
from common.telemetry.audit_records import read_record
from services.registry.resources import parse_debit

_METHOD = "/deepseek.privacy.v1.PrivacyService/Debit"


class AuditedDebits:
    """The debits in one audit log, to which the registry may be writing. Thread-safe.

    Args:
        path: File of the log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def debits(self, tenant: str, budget_id: str) -> dict[int, str]:
        """Returns the number and the digest of each debit of a budget that the log records.

        Raises:
            MeshError: The file cannot be read.
        """
        found: dict[int, str] = {}
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if _METHOD.encode() not in line:
                        continue
                    record = read_record(line.removesuffix(b"\n"))
                    if record and (number := _number(record, tenant, budget_id)):
                        found[number] = record.get("sha256", "")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise disk_error(error, self._path, "the audit log") from error
        return found


def _number(record: dict[str, Any], tenant: str, budget_id: str) -> int:
    """Returns the number of the debit that a record is about; 0 if it is not about a debit of the budget."""
    try:
        made = record["what"] == _METHOD and record["outcome"]["code"] == "OK" and record["who"]["tenant"] == tenant
        owner, number = parse_debit(record["object"], field="object") if made else ("", 0)
    except (KeyError, TypeError, InvalidArgument):  # not a record as this release writes it
        return 0
    return number if owner == budget_id else 0
