import io
import os
import pty
import subprocess
import sys

from rich.console import Console

from deepseek.training.events import EvaluationEvent, StepEvent
from deepseek.training.progress import ProgressBar

STEP = StepEvent(30, 40, 2, {"loss": 0.25, "accuracy": 0.5}, 1234.5, 6.0, 1e-3, 0)


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    with ProgressBar(Console(file=out, force_terminal=terminal, width=120)) as bar:
        bar(STEP)
        bar(EvaluationEvent(40, 2, {"loss": 0.125}))
    return out.getvalue()


def test_a_terminal_shows_steps_figures_speed_and_time_left() -> None:
    text = shown(terminal=True)
    for part in ("epoch 2", "30/40", "loss 0.2500", "accuracy 0.5000", "samples/s", "6 s left", "0.125"):
        assert part in text


def test_elsewhere_nothing_is_shown() -> None:
    assert shown(terminal=False).strip() == ""


def test_fit_shows_it_on_a_terminal_and_only_there() -> None:
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
