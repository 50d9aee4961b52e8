import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from deepseek.training.events import EvaluationEvent, StepEvent
from deepseek.training.progress import ProgressBar

STEP = StepEvent(30, 40, 2, {"loss": 0.25, "accuracy": 0.5}, 1234.5, 6.0, 1e-3, 0)


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def shown(width: int) -> str:
    out = Terminal()
    with ProgressBar(Console(file=out, force_terminal=True, width=width)) as bar:
        bar(STEP)
        bar(EvaluationEvent(40, 2, {"loss": 0.125}))
    return out.getvalue()


def test_a_terminal_shows_steps_figures_speed_and_time_left() -> None:
    text = shown(120)
    for part in ("epoch 2", "30/40", "loss 0.2500", "accuracy 0.5000", "samples/s", "6 s left", "0.125"):
        assert part in text


def test_eighty_columns_hold_bar_count_and_figures() -> None:
    text = shown(80)
    for part in ("epoch 2", "━", "30/40", "loss 0.2500", "accuracy 0.5000", "6 s left"):
        assert part in text


def test_elsewhere_a_line_is_printed_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressBar() as bar:
        for _ in range(3):
            bar(STEP)
        bar(EvaluationEvent(40, 2, {"loss": 0.125}))
    assert capsys.readouterr().err == "epoch 2: loss 0.1250\n"
    monkeypatch.setattr("deepseek.training.progress.LINE_INTERVAL_S", 0.0)
    with ProgressBar() as bar:
        bar(STEP)
        bar(EvaluationEvent(40, 2, {"loss": 0.125}))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "epoch 2, step 30 of 40: loss 0.2500  accuracy 0.5000  6 s left  1234 samples/s"
    assert said[1:] == ["epoch 2: loss 0.1250"]


def test_fit_shows_a_bar_on_a_terminal() -> None:
    program = """
from deepseek.training import MixedPrecisionTrainer
from tests.deepseek.training.tasks import Classifier, Points
MixedPrecisionTrainer(Classifier()).fit(Points(64), epochs=2)
"""
    terminal, end = pty.openpty()
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=end, check=True)
    os.close(end)
    text = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "epoch 2" in text
    assert "4/4" in text
    assert done.stdout == b""
