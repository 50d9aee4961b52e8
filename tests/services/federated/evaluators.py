"""Evaluators that fail as a test says."""

import sys
from pathlib import Path

from services.federated.evaluation import Evaluator

FAILING = Path(__file__).with_name("failing_evaluator.py")


def failing(folder: Path, job: dict[str, object], timeout_s: float = 60.0) -> Evaluator:
    """An evaluator whose process is `failing_evaluator`."""
    argv = [sys.executable, str(FAILING), str(folder)]
    return Evaluator(folder, {}, job, max_runs=1, max_restarts=2, timeout_s=timeout_s, argv=argv)
