"""What `deepseek train` shows of a run."""

import subprocess
import sys

PROGRAM = """
from deepseek.cli.output import progress_bar
from deepseek.cli.train import show_run
from protos.trainer.v1 import trainer_pb2

with progress_bar() as bar:
    warning = trainer_pb2.WarningEvent(message="fp16 takes [3.1] times as long")
    precision = trainer_pb2.PrecisionEvent(precision="PRECISION_FP32", reason="PRECISION_REASON_FASTEST")
    precision.instruction_set = "avx2"
    precision.ratios.add(precision="PRECISION_FP32", ratio=1.0)
    precision.ratios.add(precision="PRECISION_BF16", ratio=9.77)
    show_run(bar, [trainer_pb2.RunEvent(warning=warning), trainer_pb2.RunEvent(precision=precision)])
"""


def test_warnings_and_the_precision_are_shown() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "warning: fp16 takes [3.1] times as long" in done.stderr
    chosen = "precision: fp32, the fastest as measured; a training step takes 9.8x in bf16 against fp32 (avx2)"
    assert chosen in done.stderr.splitlines()
