"""The file through which directives reach a worker."""

from pathlib import Path

from deepseek.steering.directive import Directive
from deepseek.trainjob.inbox import FILE, Inbox, append

FIRST, SECOND = Directive("a", "set_learning_rate", 0.1), Directive("b", "no_op")


def test_directives_are_returned_once_in_order(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, [FIRST], interval_s=0.0)
    assert list(inbox()) == [FIRST]
    append(tmp_path, [SECOND])
    assert list(inbox()) == [SECOND]
    assert list(inbox()) == []


def test_a_line_that_was_cut_is_left_out_and_can_be_written_again(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, interval_s=0.0)
    append(tmp_path, [FIRST, SECOND])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-9])  # as if the disk had been full
    assert list(inbox()) == [FIRST]
    append(tmp_path, [SECOND])
    assert list(inbox()) == [SECOND]


def test_the_file_is_not_looked_at_more_often_than_asked(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, interval_s=3600.0)
    assert list(inbox()) == []
    append(tmp_path, [FIRST])
    assert list(inbox()) == []
    soon = Inbox(tmp_path, interval_s=1e-6)
    assert list(soon()) == [FIRST]
