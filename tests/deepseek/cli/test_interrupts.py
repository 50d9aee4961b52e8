"""What commands say after Ctrl-C."""

import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from deepseek.cli import app, dataset_quarantine, interrupts
from deepseek.cli.interrupts import check_interrupted, interrupt_message, remember_interrupts, when_interrupted
from deepseek.cli.uploading import committing
from deepseek.interchange import quarantine
from protos.job.v1 import job_pb2


@pytest.fixture(autouse=True)
def _messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_messages", ["stopped"])


@pytest.fixture
def _handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes `remember_interrupts`."""
    monkeypatch.setattr(interrupts, "_pressed", False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_a_press_during_a_finalizer_is_raised_after_it() -> None:
    ended = []

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)
            ended.append(True)

    def work() -> None:
        Finalized()
        time.sleep(30)

    remember_interrupts()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert ended == [True]
    with pytest.raises(KeyboardInterrupt):
        check_interrupted()


@pytest.mark.usefixtures("_handlers")
def test_an_error_after_a_press_is_reported_as_the_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with when_interrupted("the run continues"):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(app, "app", work)
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 130
    assert "the run continues" in capsys.readouterr().err


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
