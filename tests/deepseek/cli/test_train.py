"""What `deepseek train` shows of a run."""

import subprocess
import sys

PROGRAM = """
from deepseek.cli.output import progress_bar
from deepseek.cli.train import show_run
from protos.trainer.v1 import trainer_pb2

with progress_bar() as bar:
    warning = trainer_pb2.WarningEvent(message="fp16 takes [3.1] times as long")
    show_run(bar, [trainer_pb2.RunEvent(sequence=1, warning=warning)])
"""


def test_warnings_are_shown() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "warning: fp16 takes [3.1] times as long" in done.stderr
