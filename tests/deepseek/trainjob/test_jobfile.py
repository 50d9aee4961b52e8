"""Reports reach their file whole, or it is an error."""

import json
import subprocess
import sys
from pathlib import Path

from common.errors import InvalidArgument
from deepseek.trainjob.jobfile import report, report_failure

REPORT_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from common.errors import MeshError
from deepseek.trainjob.jobfile import report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # a write beyond is cut short, the next one is refused
try:
    report(Path(sys.argv[1]), "step", text="x" * 200)
except MeshError as error:
    print(error.reason)
"""


def test_events_are_appended_a_line_each(tmp_path: Path) -> None:
    report(tmp_path, "step", step=1)
    report(tmp_path, "stopped")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "step", "step": 1}, {"kind": "stopped"}]


def test_an_event_that_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REPORT_ON_A_FULL_DISK, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "DISK_FULL", answer
    assert (tmp_path / "events.jsonl").stat().st_size == 100


def test_the_message_of_a_failure_is_cut_where_a_hostile_name_makes_it_long(tmp_path: Path) -> None:
    report_failure(tmp_path, InvalidArgument("BAD_MODEL", "the tensor " + 10_000_000 * "x", field="file"))
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["reason"], event["field"], len(event["message"])) == ("BAD_MODEL", "file", 2001)
