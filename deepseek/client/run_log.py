"""Logging from a user's own program: an external run, whose figures the mesh lists, plots and compares.

Figures are sent in the background of the program's own work: at most once per second, and when the run ends. A figure
that is sent again, by a retry or a program that resumes, is stored only once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from common.errors import InvalidArgument, Unavailable
from common.scalars import real_number, whole_number
from deepseek.client.resume import PATIENCE_S, RETRY_INTERVAL_S, Patience
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc

_FLUSH_INTERVAL_S = 1.0
_MAX_STEPS = 500


class RunLog:
    """An external run of this program, as a context manager. Not thread-safe.

    When the block ends, the run has SUCCEEDED. After an exception, it has FAILED, with the exception as the reason.
    After Ctrl-C, it is CANCELLED.

    Args:
        stub: Client of the trainer.
        run: The run.
    """

    def __init__(self, stub: trainer_pb2_grpc.TrainerServiceStub, run: trainer_pb2.Run) -> None:
        self.run = run
        self._stub = stub
        self._steps: list[trainer_pb2.LoggedStep] = []
        self._flushed_at = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the run, `runs/<id>`; pass it to `Runs.log` as `resume` to continue the run in another process."""
        return self.run.name

    def log(self, step: int, metrics: Mapping[str, float] | None = None, /, **more: float) -> None:
        """Logs figures at a step.

        A figure is stored if its step is greater than the last stored step of the same metric. A program that resumes
        may therefore log some steps again.

        Args:
            step: Number of the step, at least 0.
            metrics: Figures by name.
            more: Further figures.

        Raises:
            InvalidArgument: BAD_VALUE if the step is negative or a figure is not a number.
            FailedPrecondition: RUN_ENDED if the run was stopped, e.g. with `deepseek run stop`.
            Unavailable: The trainer has not responded for 30 seconds.
        """
        values = {**(metrics or {}), **more}
        if not values:
            raise InvalidArgument("BAD_VALUE", "no figures were given; pass e.g. loss=0.5", field="metrics")
        figures = [
            trainer_pb2.MetricValue(name=name, value=real_number(value, f"metrics.{name}"))
            for name, value in values.items()
        ]
        number = whole_number(step, "step")
        if number < 0:
            raise InvalidArgument("BAD_VALUE", f"step is {number}; it must be at least 0", field="step")
        self._steps.append(trainer_pb2.LoggedStep(step=number, metrics=figures))
        if len(self._steps) >= _MAX_STEPS or time.monotonic() - self._flushed_at >= _FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Sends the figures that have not been sent yet."""
        self._send(trainer_pb2.LogRunRequest(name=self.name, steps=self._steps))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end, reason = job_pb2.JOB_STATE_SUCCEEDED, ""
        if isinstance(error, KeyboardInterrupt):
            end = job_pb2.JOB_STATE_CANCELLED
        elif error is not None:
            end, reason = job_pb2.JOB_STATE_FAILED, f"{type(error).__name__}: {error}"[:2000]
        self._send(trainer_pb2.LogRunRequest(name=self.name, steps=self._steps, end=end, error=reason))

    def _send(self, request: trainer_pb2.LogRunRequest) -> None:
        patience = Patience(PATIENCE_S)
        while True:
            try:
                self.run = self._stub.LogRun(request).run
                break
            except Unavailable:
                if patience.is_over:
                    raise
            time.sleep(RETRY_INTERVAL_S)
        self._steps, self._flushed_at = [], time.monotonic()
