"""What is read of a child process, whatever state its directory is in."""

import logging
import shutil
import sys
from pathlib import Path

import pytest

from common.jobs.child import ChildProcess, attempt_directory

REPORTS = """
import sys
from pathlib import Path
directory = Path(sys.argv[1]).parent
(directory / "events.jsonl").write_text('{"kind": "one"}\\n{"kind": "tw{"kind": "three"}\\n{"kind": "four"}\\n{"ki')
print("done")
"""


def test_an_unreadable_event_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ChildProcess(tmp_path / "child", [sys.executable, "-c", REPORTS], {}) as child:
        assert child.wait(30)
        with caplog.at_level(logging.WARNING):
            assert child.events() == [{"kind": "one"}, {"kind": "four"}]
    assert "skipping an unreadable event" in caplog.text


def test_of_a_line_that_is_too_long_only_the_start_is_read(tmp_path: Path) -> None:
    with ChildProcess(tmp_path / "child", [sys.executable, "-c", ""], {}) as child:
        assert child.wait(30)
        file = tmp_path / "child" / "events.jsonl"
        file.write_text('{"kind": "one"}\n{"kind": "' + (5 << 20) * "x", encoding="utf-8")
        assert child.events() == [{"kind": "one"}]
        with file.open("a", encoding="utf-8") as events:
            events.write('"}\n{"kind": "two"}\n')
        assert child.events() == [{"kind": "two"}]
        assert child.events() == []


def test_a_child_whose_directory_is_gone_can_still_be_looked_at(tmp_path: Path) -> None:
    with ChildProcess(
        tmp_path / "child", [sys.executable, "-c", "import threading; threading.Event().wait()"], {}
    ) as child:
        shutil.rmtree(tmp_path / "child")
        assert child.log_tail() == ""
        assert child.events() == []
        child.ask_to_stop()
        child.kill()
        assert child.wait(10)


def test_an_attempt_removes_what_earlier_ones_left_and_nothing_of_later_ones(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with attempt_directory(job, 2) as second:
        (second / "file").touch()
        with attempt_directory(job, 10) as tenth:
            assert tenth.is_dir()
            assert not second.exists()
        with attempt_directory(job, 11) as eleventh:
            with attempt_directory(job, 3):
                assert eleventh.is_dir()
            assert eleventh.is_dir()
    assert not job.exists()
