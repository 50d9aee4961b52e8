"""What commands say after Ctrl-C."""

import pytest
from rich.console import Console
from rich.progress import Progress

from deepseek.cli import interrupts
from deepseek.cli.interrupts import interrupt_message, when_interrupted
from deepseek.cli.uploading import committing
from protos.job.v1 import job_pb2


@pytest.fixture(autouse=True)
def _messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_messages", ["stopped"])


def test_the_message_is_that_of_the_interrupted_work() -> None:
    with when_interrupted("the run continues"):
        pass
    assert interrupt_message() == "stopped"
    with pytest.raises(KeyboardInterrupt), when_interrupted("outer"), when_interrupted("inner"):
        raise KeyboardInterrupt
    assert interrupt_message() == "inner"


@pytest.mark.parametrize("begun", [False, True])
def test_an_upload_says_whether_its_commit_continues(begun: bool) -> None:
    bar = Progress(console=Console(quiet=True))
    task = bar.add_task("uploading", note="")

    def upload() -> None:
        with committing("colours", bar, task) as on_change:
            if begun:
                on_change(job_pb2.Job(message="writing"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload()
    message = interrupt_message()
    assert ("the commit continues" in message) == begun
    assert ("no version of colours was made" in message) != begun
