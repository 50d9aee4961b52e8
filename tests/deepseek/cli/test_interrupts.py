"""What commands say after Ctrl-C."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from deepseek.cli import dataset_quarantine, interrupts
from deepseek.cli.interrupts import interrupt_message, when_interrupted
from deepseek.cli.uploading import committing
from deepseek.interchange import quarantine
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
    assert ("no new version of colours was made" in message) != begun


@pytest.mark.parametrize("begun", [False, True])
def test_a_repair_says_whether_its_commit_continues(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    version = SimpleNamespace(name="datasets/colours/versions/1", num_samples=3)
    mesh = SimpleNamespace(datasets=SimpleNamespace(version=lambda name: version))

    def stopped(*_: Any, on_change: Any, **__: Any) -> None:
        if begun:
            on_change(job_pb2.Job(message="writing"))
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset_quarantine, "connect", lambda: nullcontext(mesh))
    monkeypatch.setattr(quarantine, "repair", stopped)
    with pytest.raises(KeyboardInterrupt):
        dataset_quarantine.repair("colours", str(tmp_path / "rows.csv"))
    assert ("the commit continues" in interrupt_message()) == begun
    assert ("no new version of colours was made" in interrupt_message()) != begun
